"""The part of a node's own networks in the plan of its kernel."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from msgspec.structs import replace

from tests.support.swarms import Swarm
from weft.model.bridge_network import BridgeNetwork, BridgeNetworkSpec
from weft.model.host_ports import HostPort
from weft.model.ids import ContainerId, NetworkId
from weft.model.local_sandbox import BridgeEndpoint, LocalSandbox
from weft.model.service import PublishedPort
from weft.network import bridge
from weft.network.desired import Desired, LocalPart, SwarmPart
from weft.network.diff import diff
from weft.network.flows import Answered, Asked, stale_flows
from weft.network.kernel_state import HOST, KernelState
from weft.network.operations import AddLink, ChangeTable, Operation, ReplaceTable
from weft.network.own_ports import swarm_ports
from weft.network.ownership import (
    BRIDGE_MESH_TABLE,
    BRIDGE_TABLE,
    owns_bridge,
    owns_link,
    owns_table,
)
from weft.network.plan import Planner
from weft.network.service_table import Published

WEB = PublishedPort(target=80, published=8080)


def network(name: str, second: int, **spec: object) -> BridgeNetwork:
    return BridgeNetwork(
        id=NetworkId(name * 12),
        spec=BridgeNetworkSpec(name=name, **spec),  # type: ignore[arg-type]  # its fields differ in type
        subnet=IPv4Network(f"172.{second}.0.0/16"),
        gateway=IPv4Address(f"172.{second}.0.1"),
        is_default=name == "bridge",
    )


def sandbox(name: str, *at: BridgeNetwork, ports: tuple[PublishedPort, ...] = ()) -> LocalSandbox:
    endpoints = (
        BridgeEndpoint(
            network=each.id,
            number=i,
            address=IPv4Interface(f"{each.subnet[ord(name[0])]}/16"),
            mac=f"02:42:00:00:0{i}:{ord(name[0]):02x}",
        )
        for i, each in enumerate(at)
    )
    return LocalSandbox(
        container=ContainerId(name), name=name, endpoints=tuple(endpoints), ports=ports
    )


BACK, FRONT = network("b", 18), network("f", 19)
INNER = network("a", 20, internal=True)
DEFAULT = network("bridge", 17)
ALL = (BACK, FRONT, INNER, DEFAULT)


def planned(local: LocalPart, swarm: SwarmPart | None = None) -> KernelState:
    return Planner().plan(Desired(swarm, local))


def web_swarm(port: PublishedPort = WEB) -> SwarmPart:
    swarm = Swarm(2)
    net = swarm.network("net1", "10.1.0.0/24")
    swarm.service("web", net, ports=[port], on=[1, 2])
    return SwarmPart(swarm.assignment(1), swarm.facts(1), swarm.residents(1))


def test_nothing_is_planned_of_a_node_without_networks() -> None:
    assert planned(LocalPart((DEFAULT,))) == planned(LocalPart())
    assert diff(KernelState({}), planned(LocalPart((DEFAULT,)))) == []


def test_the_default_network_has_a_bridge_while_it_has_containers() -> None:
    local = LocalPart(ALL, (sandbox("c", DEFAULT),))
    assert "docker0" in planned(local)[HOST].links
    assert "docker0" not in planned(LocalPart(ALL))[HOST].links


def test_all_of_it_can_be_found_again() -> None:
    host = planned(LocalPart(ALL, (sandbox("c", BACK, DEFAULT), sandbox("d", INNER))))[HOST]
    bridges = {name for name, link in host.links.items() if owns_bridge(link.mac)}
    assert bridges == {"br-bbbbbbbbbbbb", "br-ffffffffffff", "br-aaaaaaaaaaaa", "docker0"}
    assert all(owns_link(name) for name in host.links.keys() - bridges)
    assert all(owns_table(name) for _, name in host.tables)
    assert all(len(name) <= 15 for name in host.links)


def test_each_part_is_planned_as_if_it_were_alone() -> None:
    """Only in the host's own namespace do they meet, in tables of their own."""
    local, swarm = LocalPart(ALL, (sandbox("c", BACK, FRONT),)), web_swarm()
    both, own, other = planned(local, swarm), planned(local), planned(LocalPart(), swarm)
    assert both.namespaces.keys() == own.namespaces.keys() | other.namespaces.keys()
    for name in both.namespaces.keys() - {HOST}:
        assert both[name] == (own.namespaces.get(name) or other[name])
    assert both[HOST].links == {**own[HOST].links, **other[HOST].links}
    assert both[HOST].tables["ip", "weft"] == other[HOST].tables["ip", "weft"]
    frames = ("bridge", BRIDGE_TABLE)
    assert both[HOST].tables[frames] == own[HOST].tables[frames]


def test_leaving_the_swarm_touches_nothing_of_the_other_part() -> None:
    local, swarm = LocalPart(ALL, (sandbox("c", BACK, ports=(WEB,)),)), web_swarm()
    both, own = planned(local, swarm), planned(local)
    ours = {*own.namespaces} - {HOST}
    for before, after in ((both, own), (own, both)):
        changed = diff(before, after)
        assert changed
        assert not [o for o in changed if o.namespace in ours or _is_of_bridge(o)]


def _is_of_bridge(operation: Operation) -> bool:
    """Two tables of the swarm's name the bridges, and come and go with it."""
    words = str(operation)
    theirs = any(name in words for name in ("weft-underlay", BRIDGE_MESH_TABLE))
    return not theirs and any(name in words for name in ("br-", "wbr-", "docker0", BRIDGE_TABLE))


def test_one_more_container_changes_elements() -> None:
    planner = Planner()
    before = planner.plan(Desired(None, LocalPart(ALL, (sandbox("c", BACK),))))
    more = (sandbox("c", BACK), sandbox("d", BACK, ports=(WEB,)))
    after = planner.plan(Desired(None, LocalPart(ALL, more)))
    tables = [o for o in diff(before, after) if isinstance(o, ChangeTable)]
    assert {(o.table.family, o.table.name) for o in tables} == {
        ("bridge", BRIDGE_TABLE), ("ip", BRIDGE_TABLE),
    }  # fmt: skip
    assert not [
        o for o in diff(before, after) if isinstance(o, ReplaceTable) and o.namespace == HOST
    ]
    assert [o for o in diff(before, after) if isinstance(o, AddLink)]
    again = planner.plan(Desired(None, LocalPart(ALL, more)))
    assert all(again[name] is space for name, space in after.namespaces.items())


def test_ports_are_published_at_the_endpoint_that_leads_outside() -> None:
    """By the name of the network, as in Docker; an internal one never."""
    ports = (WEB, PublishedPort(81, 8081, host_address=IPv4Address("127.0.0.1")))
    place = sandbox("c", INNER, FRONT, BACK, ports=ports)
    sets = planned(LocalPart(ALL, (place,)))[HOST].tables["ip", BRIDGE_TABLE].sets
    target = place.endpoints[2].address.ip
    assert sets[bridge.PUBLISHED].elements == {("tcp", 8080): (target, 80)}
    assert sets[bridge.PUBLISHED_AT].elements == {
        (IPv4Address("127.0.0.1"), "tcp", 8081): (target, 81)
    }
    inner = sandbox("c", INNER, ports=ports)
    sets = planned(LocalPart(ALL, (inner,)))[HOST].tables["ip", BRIDGE_TABLE].sets
    assert not sets[bridge.PUBLISHED].elements
    assert not planned(LocalPart(ALL, (inner,)))[inner.key].routes


def test_names_are_answered_on_networks_that_users_made() -> None:
    for networks, answers in (((DEFAULT,), False), ((DEFAULT, INNER), True), ((), False)):
        place = sandbox("c", *networks)
        tables = planned(LocalPart(ALL, (place,)))[place.key].tables
        assert bool(tables) == answers


def test_a_port_of_a_container_here_is_not_the_swarm_s_on_this_host() -> None:
    local = LocalPart(ALL, (sandbox("c", BACK, ports=(WEB,)),))
    key = Published("tcp", 8080)
    for port in (WEB, replace(WEB, mode="host")):
        part = web_swarm(port)
        assert HostPort("tcp", 8080) in swarm_ports(part)
        table = planned(local, part)[HOST].tables["ip", "weft"]
        alone = planned(LocalPart(), part)[HOST].tables["ip", "weft"]
        assert key in alone.services or ("tcp", 8080) in alone.sets["gateway-ports"].elements
        assert key not in table.services
        assert ("tcp", 8080) not in table.sets["gateway-ports"].elements


def test_a_container_here_and_the_swarm_have_one_port_at_two_addresses_of_the_host() -> None:
    here, there = IPv4Address("127.0.0.1"), IPv4Address("10.59.72.11")
    local = LocalPart(ALL, (sandbox("c", BACK, ports=(replace(WEB, host_address=here),)),))
    for mode in ("ingress", "host"):
        for address, is_kept in ((there, True), (here, False), (None, False)):
            part = web_swarm(replace(WEB, mode=mode, host_address=address))
            assert HostPort("tcp", 8080, address) in swarm_ports(part)
            table = planned(local, part)[HOST].tables["ip", "weft"]
            direct = [table.sets[name].elements for name in ("gateway-ports", "gateway-ports-at")]
            found = any(direct) or Published("tcp", 8080, address) in table.services
            assert found == is_kept


def test_the_daemon_s_own_ports_are_published_for_nobody() -> None:
    part = web_swarm()
    facts = replace(part.facts, own_ports=frozenset({("tcp", 8080)}))
    local = LocalPart(ALL, (sandbox("c", BACK, ports=(WEB,)),))
    own = planned(local, replace(part, facts=facts))
    assert not own[HOST].tables["ip", BRIDGE_TABLE].sets[bridge.PUBLISHED].elements


def test_containers_here_send_no_vxlan_to_hosts_of_the_swarm() -> None:
    both = planned(LocalPart(ALL), web_swarm())
    assert '"br-bbbbbbbbbbbb"' in both[HOST].tables["ip", "weft-underlay"].body


def test_flows_that_lead_elsewhere_are_forgotten() -> None:
    ports = (
        PublishedPort(53, 5353, "udp"),
        PublishedPort(54, 5454, "udp", host_address=IPv4Address("192.0.2.1")),
    )
    idle, busy = (
        planned(LocalPart(ALL, (sandbox("c", BACK, ports=some),))) for some in ((), ports)
    )
    asked = {(HOST, Asked("udp", 5353)), (HOST, Asked("udp", 5454))}
    assert stale_flows(idle, busy) == asked
    address = sandbox("c", BACK).endpoints[0].address.ip
    assert stale_flows(busy, idle) == {(HOST, Answered(address))}
