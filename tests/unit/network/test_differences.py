"""Each operation that mends a kernel's network has words for what it mends."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import get_args

import pytest

from weft.network import operations as op
from weft.network.differences import difference
from weft.network.kernel_state import (
    HOST,
    Bridge,
    ForwardingEntry,
    Link,
    Neighbour,
    Route,
    Rule,
    Table,
)
from weft.network.operations import Operation

NS, MAC, VTEP = "1-abc", "02:42:0a:00:01:02", IPv4Address("192.0.2.2")
ADDRESS = IPv4Address("10.0.1.2")
HERE = "in 1-abc (network web)"
ROUTE = Route(destination=IPv4Network("10.0.0.0/24"), device="ing0")
RULE = Rule(priority=900, table=5917)
CASES: list[tuple[Operation, str, str]] = [
    (op.AddNamespace(NS), "missing", "network namespace 1-abc (network web)"),
    (op.RemoveNamespace(NS), "foreign", "network namespace 1-abc (network web)"),
    (op.AddLink(NS, Link(name="br0", kind=Bridge(), mtu=1450)), "missing", f"link br0 {HERE}"),
    (op.RemoveLink(NS, "br0"), "foreign", f"link br0 {HERE}"),
    (op.SetLink(namespace=NS, name="br0", mtu=1450, up=False), "wrong", f"link br0 {HERE} (MTU 1450, state down)"),
    (op.AddAddress(HOST, "ing0", IPv4Interface("10.0.0.1/24")), "missing", "address 10.0.0.1/24 of ing0 of the host"),
    (op.RemoveAddress("lb_x", "eth0", IPv4Interface("10.0.0.1/24")), "foreign", "address 10.0.0.1/24 of eth0 in lb_x"),
    (op.AddNeighbour(NS, Neighbour("vxlan0", ADDRESS, MAC)), "missing", f"neighbour entry 10.0.1.2 at {MAC} on vxlan0 {HERE}"),
    (op.RemoveNeighbour(NS, Neighbour("vxlan0", ADDRESS, MAC)), "foreign", f"neighbour entry 10.0.1.2 at {MAC} on vxlan0 {HERE}"),
    (op.AddForwarding(NS, ForwardingEntry("vxlan0", MAC, VTEP)), "missing", f"forwarding entry {MAC} to 192.0.2.2 on vxlan0 {HERE}"),
    (op.RemoveForwarding("x", ForwardingEntry("veth1", MAC)), "foreign", f"forwarding entry {MAC} on veth1 in x"),
    (op.AddRoute(HOST, ROUTE), "missing", "route to 10.0.0.0/24 by ing0 of the host"),
    (op.RemoveRoute(HOST, ROUTE), "foreign", "route to 10.0.0.0/24 by ing0 of the host"),
    (op.AddRule(HOST, RULE), "missing", "policy rule 900 of the host"),
    (op.RemoveRule(HOST, RULE), "foreign", "policy rule 900 of the host"),
    (op.SetSysctl(HOST, "net.ipv4.ip_forward", "1"), "wrong", "sysctl net.ipv4.ip_forward of the host (should be 1)"),
    (op.ReplaceTable(HOST, Table("ip", "weft")), "wrong", "nftables table ip weft of the host"),
    (op.ChangeTable(HOST, Table("ip", "weft"), ()), "wrong", "nftables table ip weft of the host"),
    (op.RemoveTable(HOST, "ip", "weft-x"), "foreign", "nftables table ip weft-x of the host"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "how", "what"), CASES)
def test_words(operation: Operation, how: str, what: str) -> None:
    found = difference(operation, {NS: "web"})
    assert (found.how, found.what) == (how, what)


def test_all_operations_have_words() -> None:
    assert {type(operation) for operation, *_ in CASES} == set(get_args(Operation))
