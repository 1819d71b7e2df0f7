"""IPv6 of a node's own networks in the plan of its kernel."""

from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

import pytest
from msgspec.structs import replace

from weft.model import codec
from weft.model.addresses import link_local_of
from weft.model.bridge_network import BridgeNetwork, BridgeNetworkSpec
from weft.model.host_ports import ANY_IPV6
from weft.model.ids import ContainerId, NetworkId
from weft.model.local_sandbox import BridgeEndpoint, LocalSandbox
from weft.model.service import PublishedPort
from weft.network import bridge_ipv6 as ipv6
from weft.network.desired import Desired, LocalPart
from weft.network.diff import diff
from weft.network.flows import Answered, Asked, stale_flows
from weft.network.kernel_state import HOST, KernelState, Namespace
from weft.network.operations import ReplaceTable
from weft.network.ownership import BRIDGE_TABLE
from weft.network.plan import Planner

SIX = ("ip6", BRIDGE_TABLE)


def network(name: str, number: int, has_ipv6: bool = True, **spec: object) -> BridgeNetwork:
    subnet = IPv6Network(f"fd00:{number:x}::/64")
    return BridgeNetwork(
        id=NetworkId(name * 12),
        spec=BridgeNetworkSpec(name=name, has_ipv6=has_ipv6, **spec),  # type: ignore[arg-type]  # its fields differ in type
        subnet=IPv4Network(f"172.{number}.0.0/16"),
        gateway=IPv4Address(f"172.{number}.0.1"),
        ipv6_subnet=subnet if has_ipv6 else None,
        ipv6_gateway=subnet[1] if has_ipv6 else None,
    )


BACK, FRONT, INNER = network("b", 18), network("f", 19), network("a", 20, internal=True)
OLD = network("o", 21, has_ipv6=False)


def sandbox(name: str, *at: BridgeNetwork, ports: tuple[PublishedPort, ...] = ()) -> LocalSandbox:
    own = ord(name[0])
    endpoints = tuple(
        BridgeEndpoint(
            network=each.id,
            number=i,
            address=IPv4Interface((int(each.subnet[own]), 16)),
            mac=f"02:42:00:00:0{i}:{own:02x}",
            ipv6_address=None
            if each.ipv6_subnet is None
            else IPv6Interface((int(each.ipv6_subnet[own]), 64)),
        )
        for i, each in enumerate(at)
    )
    return LocalSandbox(container=ContainerId(name), name=name, endpoints=endpoints, ports=ports)


def planned(
    *places: LocalSandbox, networks: tuple[BridgeNetwork, ...] | None = None
) -> KernelState:
    known = (BACK, FRONT, INNER, OLD) if networks is None else networks
    return Planner().plan(Desired(None, LocalPart(known, places)))


def has_ipv6(space: Namespace) -> bool:
    """Whether anything of it is about IPv6, but for what switches it off."""
    off = {key: value for key, value in space.sysctls.items() if key.startswith("net.ipv6")}
    addresses = [address for link in space.links.values() for address in link.addresses]
    return (
        any(not key.endswith("disable_ipv6") or value != "1" for key, value in off.items())
        or any(each.version == 6 for each in addresses)
        or any(each.destination.version == 6 for each in space.routes)
        or any(each.address.version == 6 for each in space.neighbours)
        or any(
            "ip6" in table.body or family == "ip6" for (family, _), table in space.tables.items()
        )
        or any("ipv6" in name for table in space.tables.values() for name in table.sets)
    )


def test_without_such_a_network_there_is_nothing_of_it() -> None:
    state = planned(sandbox("c", OLD), networks=(OLD,))
    assert not any(map(has_ipv6, state.namespaces.values()))
    place = sandbox("c", OLD)
    beside = planned(place, sandbox("d", BACK))
    assert not has_ipv6(beside[place.key])
    senders = beside[HOST].tables["bridge", BRIDGE_TABLE].sets[ipv6.SENDERS].elements
    assert {mac for mac, _ in senders} == {sandbox("d", BACK).endpoints[0].mac}


def test_a_container_s_way_out_is_the_first_network_with_ipv6_that_leads_there() -> None:
    place = sandbox("c", INNER, OLD, FRONT, BACK)
    space = planned(place)[place.key]
    defaults = [route for route in space.routes if route.destination == ipv6.DEFAULT_ROUTE]
    assert [(route.via, route.device) for route in defaults] == [
        (IPv6Address("fd00:12::1"), "eth3")
    ]
    on = {k for k, v in space.sysctls.items() if k.endswith("disable_ipv6") and v == "0"}
    assert on == {f"net.ipv6.conf.eth{i}.disable_ipv6" for i in (0, 2, 3)}
    assert space.sysctls["net.ipv6.conf.eth0.accept_ra"] == "0"
    inside = sandbox("d", INNER)
    assert not [r for r in planned(inside)[inside.key].routes if r.destination.version == 6]


def test_the_host_forwards_and_takes_no_router_s_word_on_the_bridge() -> None:
    host = planned(sandbox("c", BACK))[HOST]
    assert host.sysctls["net.ipv6.conf.all.forwarding"] == "1"
    name = BACK.device
    assert host.sysctls[f"net.ipv6.conf.{name}.disable_ipv6"] == "0"
    assert host.sysctls[f"net.ipv6.conf.{name}.accept_ra"] == "0"
    assert host.sysctls[f"net.ipv6.conf.{OLD.device}.disable_ipv6"] == "1"
    assert IPv6Interface("fd00:12::1/64") in host.links[name].addresses


def test_ports_are_published_in_the_family_of_their_address() -> None:
    at = IPv6Address("2001:db8::1")
    ports = (
        PublishedPort(80, 8080),
        PublishedPort(80, 8080, host_address=ANY_IPV6),
        PublishedPort(81, 8081, host_address=at),
        PublishedPort(82, 8082, host_address=IPv4Address("192.0.2.1")),
    )
    place = sandbox("c", INNER, FRONT, BACK, ports=ports)
    host = planned(place)[HOST]
    own = place.endpoints[2].ipv6_address
    assert own is not None
    assert host.tables[SIX].sets[ipv6.PUBLISHED].elements == {("tcp", 8080): (own.ip, 80)}
    assert host.tables[SIX].sets[ipv6.PUBLISHED_AT].elements == {(at, "tcp", 8081): (own.ip, 81)}
    four = host.tables["ip", BRIDGE_TABLE].sets
    assert four["bridge-ports"].elements.keys() == {("tcp", 8080)}
    assert four["bridge-ports-at"].elements.keys() == {(IPv4Address("192.0.2.1"), "tcp", 8082)}
    before = planned(sandbox("c", INNER, FRONT, BACK))
    stale = {flow for _, flow in stale_flows(before, planned(place))}
    assert stale == {
        Asked("tcp", 8080), Asked("tcp", 8082), Asked("tcp", 8080, True), Asked("tcp", 8081, True),
    }  # fmt: skip
    assert (HOST, Answered(own.ip)) in stale_flows(planned(place), before)


def test_one_more_container_changes_elements_only() -> None:
    planner = Planner()
    before = planner.plan(Desired(None, LocalPart((BACK,), (sandbox("c", BACK),))))
    after = planner.plan(
        Desired(None, LocalPart((BACK,), (sandbox("c", BACK), sandbox("d", BACK))))
    )
    steps = diff(before, after)
    assert steps
    assert not [o for o in steps if isinstance(o, ReplaceTable) and o.namespace == HOST]


def test_masquerading_is_the_network_s_choice() -> None:
    own = replace(BACK, spec=replace(BACK.spec, masquerades=False))
    for each, expected in ((BACK, True), (own, False), (INNER, False)):
        body = planned(sandbox("c", each), networks=(each,))[HOST].tables[SIX].body
        assert (" masquerade" in body) == expected


def test_a_user_may_switch_it_off_in_a_container() -> None:
    assert ipv6.is_off({"net.ipv6.conf.all.disable_ipv6": "1"})
    assert not ipv6.is_off({"net.ipv6.conf.all.disable_ipv6": "0"})
    assert not ipv6.is_off({})


@pytest.mark.parametrize(
    ("mac", "address"),
    [
        ("02:42:ac:12:00:02", "fe80::42:acff:fe12:2"),
        ("fa:ea:af:27:2f:51", "fe80::f8ea:afff:fe27:2f51"),
    ],
)
def test_link_local_addresses_are_the_kernel_s(mac: str, address: str) -> None:
    assert link_local_of(mac) == IPv6Address(address)


def test_what_is_kept_on_disk_is_read_as_it_was() -> None:
    place = sandbox("c", BACK, OLD, ports=(PublishedPort(80, 81, host_address=ANY_IPV6),))
    for value in (place, BACK, OLD, FRONT.spec):
        assert codec.decode(codec.encode(value), type(value)) == value
