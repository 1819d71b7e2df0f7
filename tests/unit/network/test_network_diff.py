"""From any state to any other: the operations lead there, in an order that a kernel takes, and no
further."""

import asyncio
from collections.abc import Container
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.network.conftest import (
    Told,
    bring,
    differences,
    histories,
    inputs,
    kernel_in,
    planned,
    read,
)
from weft.errors import OperationFailed
from weft.linux.fake import FakeKernel
from weft.model.addresses import mac_for
from weft.network import operations as op
from weft.network.diff import diff
from weft.network.fragments import cable, merge
from weft.network.kernel_state import (
    HOST,
    Bridge,
    BridgePort,
    ForwardingEntry,
    KernelState,
    Link,
    Namespace,
    Neighbour,
    Route,
    Table,
    Veth,
    Vxlan,
)

EMPTY = KernelState({HOST: Namespace(name=HOST)})
NINE = IPv4Network("9.0.0.0/8")
few = settings(
    max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@few
@given(inputs())
def test_from_nothing(input: Told) -> None:
    desired = planned(input)
    kernel = kernel_in(desired)
    assert differences(kernel, desired) == []
    assert diff(read(kernel, desired), desired) == []


@few
@given(inputs(), inputs())
def test_from_any_state_to_any_other(first: Told, second: Told) -> None:
    """Swarms that have nothing to do with each other but their names: addresses, MACs, kinds and
    peers all differ. The ends of a veth are only known to whoever made it, so what was desired
    before stands for what is."""
    before, after = planned(first), planned(second)
    kernel = kernel_in(before)
    bring(kernel, after, before)
    assert differences(kernel, after) == []
    assert diff(read(kernel, after), after) == []


@few
@given(histories(), st.booleans())
def test_from_one_moment_to_the_next(moments: tuple[Told, Told], remembered: bool) -> None:
    """The agent may take what it applied for the kernel's state, or read it again."""
    before, after = map(planned, moments)
    kernel = kernel_in(before)
    bring(kernel, after, before if remembered else None)
    assert differences(kernel, after) == []
    assert diff(read(kernel, after), after) == []


@few
@given(inputs())
def test_everything_of_ours_goes(input: Told) -> None:
    kernel = kernel_in(planned(input))
    bring(kernel, EMPTY)
    left = msgspec.structs.replace(kernel.state()[HOST], sysctls={})
    assert left == EMPTY[HOST]
    assert kernel.state().namespaces.keys() == {HOST}


@few
@given(inputs())
def test_equal_states_give_nothing(input: Told) -> None:
    assert diff(planned(input), planned(input)) == []


@few
@given(inputs(), inputs())
def test_every_operation_prints_as_one_command(first: Told, second: Told) -> None:
    for operation in diff(planned(first), planned(second)):
        words = str(operation).split("\n")[0].split()
        assert words[0] in ("ip", "bridge", "nft", "sysctl")
        assert "None" not in words
        assert len(str(operation).splitlines()) == 1 or isinstance(
            operation, op.ReplaceTable | op.ChangeTable
        )


@few
@given(inputs(), st.data())
def test_any_damage_is_repaired(input: Told, data: st.DataObject) -> None:
    """One random thing that is there is taken away, as somebody else may do."""
    desired = planned(input)
    kernel = kernel_in(desired)
    kernel.damage(data.draw(st.sampled_from(vandalism(desired)), label="damage"))
    bring(kernel, desired)
    assert differences(kernel, desired) == []


def vandalism(state: KernelState) -> list[op.Operation]:
    """Each removal that is possible."""
    found: list[op.Operation] = []
    for name, space in state.namespaces.items():
        found += [op.RemoveNamespace(name)] if name != HOST else []
        found += [op.RemoveLink(name, link) for link in space.links]
        found += [op.SetLink(namespace=name, name=link, up=False) for link in space.links]
        found += [op.SetLink(namespace=name, name=link, mtu=1280) for link in space.links]
        found += [
            op.SetLink(namespace=name, name=n, master="")
            for n, link in space.links.items()
            if link.master
        ]
        found += [
            op.RemoveAddress(name, link.name, a)
            for link in space.links.values()
            for a in link.addresses
        ]
        found += [op.RemoveNeighbour(name, entry) for entry in space.neighbours]
        found += [op.RemoveForwarding(name, entry) for entry in space.forwarding]
        found += [op.RemoveRoute(name, route) for route in space.routes]
        found += [op.RemoveRule(name, rule) for rule in space.rules]
        found += [op.RemoveTable(name, *key) for key in space.tables]
    return found


@given(st.integers(0, 400), st.booleans())
@settings(max_examples=25)
def test_a_failed_operation_is_made_good_in_the_next_round(position: int, twice: bool) -> None:
    """Whatever fails, the operations that do not need it are done, and the next comparison finds
    the rest."""
    desired = planned_example()
    operations = diff(EMPTY, desired)
    victim = operations[position % len(operations)]
    kernel = FakeKernel()
    for _ in range(1 + twice):
        kernel.fail_next(lambda o: o == victim)
        with pytest.raises(OperationFailed, match="Input/output error") as caught:
            bring(kernel, desired)
        assert str(caught.value).startswith("cannot apply ")
    bring(kernel, desired)
    assert differences(kernel, desired) == []


AT_PORT = ForwardingEntry("veth1", "02:42:0a:00:00:05")


def planned_example() -> KernelState:
    from_bridge = cable(
        ("1-net", "veth1", "br0"),
        ("box", "eth0"),
        1450,
        "02:42:0a:00:00:05",
        IPv4Interface("10.0.0.5/24"),
    )
    tunnel = Link(
        name="vxlan0", kind=Vxlan(4096, IPv4Address("192.0.2.1"), 4789), mtu=1450, master="br0"
    )
    bridge = Link(
        name="br0", kind=Bridge(), mtu=1450, addresses=frozenset({IPv4Interface("10.0.0.1/24")})
    )
    peers = Namespace(
        name="1-net",
        links={link.name: link for link in (bridge, tunnel)},
        neighbours=frozenset({Neighbour("vxlan0", IPv4Address("10.0.0.9"), "02:42:0a:00:00:09")}),
        forwarding=frozenset(
            {ForwardingEntry("vxlan0", "02:42:0a:00:00:09", IPv4Address("192.0.2.2"))}
        ),
        tables={("ip", "weft"): Table("ip", "weft", "")},
    )
    return merge([Namespace(name=HOST), peers, *from_bridge])


# --- one thing at a time


def test_the_order_that_a_kernel_wants() -> None:
    assert [str(o) for o in diff(EMPTY, planned_example())] == [
        "ip netns add 1-net",
        "ip netns add box",
        "ip -n 1-net link add br0 mtu 1450 type bridge",
        (
            "ip link add vxlan0 mtu 1450 netns 1-net type vxlan id 4096 local 192.0.2.1 dstport"
            " 4789 nolearning proxy l2miss l3miss"
        ),
        (
            "ip -n 1-net link add veth1 mtu 1450 type veth peer name eth0 netns box mtu 1450"
            " address 02:42:0a:00:00:05"
        ),
        "ip -n 1-net link set vxlan0 master br0",
        "ip -n 1-net link set veth1 master br0",
        (
            "ip -n 1-net link set veth1 type bridge_slave isolated off learning off flood off"
            " locked on hairpin off"
        ),
        "ip -n 1-net address add 10.0.0.1/24 dev br0",
        "ip -n box address add 10.0.0.5/24 dev eth0",
        "ip -n 1-net link set br0 up",
        "ip -n 1-net link set vxlan0 up",
        "ip -n 1-net link set veth1 up",
        "ip -n box link set eth0 up",
        "ip -n 1-net neighbour replace 10.0.0.9 lladdr 02:42:0a:00:00:09 dev vxlan0 nud permanent",
        "bridge -n 1-net fdb replace 02:42:0a:00:00:05 dev veth1 master static",
        "bridge -n 1-net fdb replace 02:42:0a:00:00:09 dev vxlan0 dst 192.0.2.2 self permanent",
        (
            "ip netns exec 1-net nft -f - <<END\nadd table ip weft\ndelete table ip weft\ntable ip"
            " weft {\n\n}\nEND"
        ),
    ]


def test_a_sandbox_that_goes_takes_nothing_else_along() -> None:
    desired = planned_example()
    net = desired["1-net"]
    links = {name: link for name, link in net.links.items() if name != "veth1"}
    forwarding = frozenset(entry for entry in net.forwarding if entry.device != "veth1")
    bridge = msgspec.structs.replace(net, links=links, forwarding=forwarding)
    fewer = KernelState({HOST: desired[HOST], "1-net": bridge})
    assert [str(o) for o in diff(desired, fewer)] == [
        "ip -n 1-net link delete veth1",
        "ip netns delete box",
    ]


def test_a_task_that_moves_to_another_host_costs_one_entry() -> None:
    """The MAC stays, and the entry is replaced in place: no frame meets the gap."""
    desired = planned_example()
    moved = ForwardingEntry("vxlan0", "02:42:0a:00:00:09", IPv4Address("192.0.2.3"))
    net = msgspec.structs.replace(desired["1-net"], forwarding=frozenset({moved, AT_PORT}))
    after = KernelState({**desired.namespaces, "1-net": net})
    assert [str(o) for o in diff(desired, after)] == [
        "bridge -n 1-net fdb replace 02:42:0a:00:00:09 dev vxlan0 dst 192.0.2.3 self permanent"
    ]


def peers(number: int, changed: Container[int] = ()) -> KernelState:
    """A bridge with so many peers; those in `changed` are behind another host."""
    addresses = [IPv4Address("10.0.0.0") + i for i in range(2, number + 2)]
    desired = planned_example()
    entries = frozenset(
        ForwardingEntry(
            "vxlan0", mac_for(a), IPv4Address("192.0.2.3" if i in changed else "192.0.2.2")
        )
        for i, a in enumerate(addresses)
    )
    neighbours = frozenset(Neighbour("vxlan0", a, mac_for(a)) for a in addresses)
    net = msgspec.structs.replace(desired["1-net"], neighbours=neighbours, forwarding=entries)
    return KernelState({**desired.namespaces, "1-net": net})


@pytest.mark.parametrize("changed", [0, 1, 7])
def test_ten_thousand_peers_cost_what_changed(changed: int) -> None:
    before, after = peers(10_000), peers(10_000, range(changed))
    assert len(diff(before, after)) == changed


def test_peers_come_and_go() -> None:
    assert len(diff(peers(10_000), peers(10_003))) == 6
    assert len(diff(peers(10_003), peers(10_000))) == 6


def test_a_peer_goes_after_the_rules_that_send_packets_to_it() -> None:
    before, after = peers(2), peers(1)
    changed = {("ip", "weft"): Table("ip", "weft", "chain other {}")}
    after = KernelState(
        {**after.namespaces, HOST: msgspec.structs.replace(after[HOST], tables=changed)}
    )
    kinds = [type(operation) for operation in diff(before, after)]
    assert kinds == [op.ReplaceTable, op.RemoveNeighbour, op.RemoveForwarding]


def test_a_link_of_another_kind_is_made_anew_with_all_that_hangs_on_it() -> None:
    desired = planned_example()
    kernel = kernel_in(desired)
    kernel.damage(op.RemoveLink("1-net", "vxlan0"))
    dummy = Link(name="vxlan0", kind=Veth("box", "other"), mtu=1450)
    kernel.damage(
        op.AddLink("1-net", dummy, Link(name="other", kind=Veth("1-net", "vxlan0"), mtu=1450))
    )
    bring(kernel, desired)
    assert differences(kernel, desired) == []


def renumbered(address: IPv4Interface, mac: str) -> KernelState:
    """A container with an entry of its own on its one interface."""
    ends = cable(("1-net", "veth1", "br0"), ("box", "eth0"), 1450, mac, address)
    entry = Neighbour("eth0", IPv4Address("169.254.1.1"), "02:43:00:00:00:00")
    bridge = Link(name="br0", kind=Bridge(), mtu=1450)
    net = Namespace(name="1-net", links={"br0": bridge})
    return merge(
        [Namespace(name=HOST), net, *ends, Namespace(name="box", neighbours=frozenset({entry}))]
    )


@pytest.mark.parametrize("hosts", [(5, 6), (5, 5)], ids=["another address", "the same address"])
@pytest.mark.parametrize(
    "macs",
    [("02:00:00:00:00:01",) * 2, ("02:00:00:00:00:01", "02:00:00:00:00:02")],
    ids=["MAC", "another MAC"],
)
def test_neighbours_survive_a_new_address(hosts: tuple[int, int], macs: tuple[str, str]) -> None:
    """The kernel drops permanent neighbours with the old MAC (`neigh_changeaddr`), and with the
    last address (`inetdev_destroy`). No container changes its address while it lives."""
    before, after = (
        renumbered(IPv4Interface(f"10.0.0.{i}/24"), mac) for i, mac in zip(hosts, macs, strict=True)
    )
    kernel = kernel_in(before)
    bring(kernel, after)
    assert differences(kernel, after) == []


def test_the_fake_kernel_wakes_who_waits() -> None:
    async def run() -> None:
        kernel = FakeKernel()
        waiting = asyncio.ensure_future(kernel.changed())
        await asyncio.sleep(0)
        assert not waiting.done()
        await kernel.apply([op.AddNamespace("box"), op.AddNamespace("other")])
        assert await waiting == {"box", "other"}
        waiting = asyncio.ensure_future(kernel.changed())
        kernel.damage(op.RemoveNamespace("box"))
        assert await waiting == {"box"}

    asyncio.run(run())


@pytest.mark.parametrize(
    ("operation", "cause"),
    [
        (
            op.AddLink("nowhere", Link(name="br0", kind=Bridge(), mtu=1500)),
            "no network namespace nowhere",
        ),
        (op.SetLink(namespace="box", name="eth0", master="br9"), "no device br9"),
        (op.SetLink(namespace="box", name="eth0", port=BridgePort()), "Operation not supported"),
        (op.AddAddress("box", "eth9", IPv4Interface("10.0.0.5/24")), "no device eth9"),
        (
            op.AddForwarding("box", ForwardingEntry("eth9", "02:42:0a:00:00:09", IPv4Address(1))),
            "no device eth9",
        ),
        (
            op.AddRoute("box", Route(destination=NINE, device="eth0", via=IPv4Address("9.0.0.1"))),
            "Nexthop has invalid gateway",
        ),
        (
            op.AddRoute(
                "box", Route(destination=NINE, device="eth0", source=IPv4Address("9.0.0.1"))
            ),
            "Invalid prefsrc address",
        ),
        (op.SetSysctl("box", "net.ipv4.conf.eth9.rp_filter", "0"), "No such file or directory"),
        (op.AddLink("1-net", Link(name="veth1", kind=Bridge(), mtu=1500)), "File exists"),
        (
            op.AddLink("box", Link(name="v", kind=Vxlan(4096, IPv4Address(1), 4789), mtu=1)),
            "VNI already exists",
        ),
    ],
)
def test_the_fake_kernel_refuses_what_a_kernel_refuses(operation: op.Operation, cause: str) -> None:
    kernel = kernel_in(planned_example())
    with pytest.raises(OperationFailed, match=cause) as caught:
        asyncio.run(kernel.apply([operation, op.AddNamespace("later")]))
    assert str(operation) in str(caught.value)
    assert "later" in kernel.spaces, "independent ones after it are still tried"


def test_what_is_already_so_counts_as_done() -> None:
    desired = planned_example()
    kernel = kernel_in(desired)
    asyncio.run(kernel.apply([o for o in diff(EMPTY, desired) if not isinstance(o, op.SetLink)]))
    assert differences(kernel, desired) == []
    gone: list[op.Operation] = [
        op.RemoveNamespace("x"),
        op.RemoveLink("x", "y"),
        op.RemoveLink("box", "y"),
        op.RemoveTable("box", "ip", "z"),
    ]
    asyncio.run(kernel.apply(gone))
    assert differences(kernel, desired) == []
