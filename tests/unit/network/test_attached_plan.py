"""Plain containers on networks of the swarm, in the plan of their node's kernel."""

from ipaddress import IPv4Address, IPv4Interface

import msgspec

from tests.support.swarms import Swarm
from tests.unit.network.test_bridge_plan import BACK, DEFAULT, sandbox
from weft.model.addresses import mac_for
from weft.model.bridge_network import BridgeNetwork
from weft.model.ids import AttachmentId, NetworkId
from weft.model.local_sandbox import LocalSandbox, OverlayEndpoint
from weft.model.service import PublishedPort
from weft.network.desired import Desired, LocalPart, SwarmPart
from weft.network.gateway import HOST_PORTS
from weft.network.kernel_state import HOST, KernelState
from weft.network.ownership import gateway_port, overlay_namespace
from weft.network.plan import Planner

WEB = PublishedPort(target=80, published=8080, mode="host")
ADDRESS = IPv4Interface("10.1.0.200/24")
GATEWAY = IPv4Interface("172.18.0.77/16")


class World:
    """A node with a task on a network of the swarm, and another network, which is internal."""

    def __init__(self) -> None:
        swarm = Swarm(2)
        self.net = swarm.network("net1", "10.1.0.0/24")
        self.inner = swarm.network("inner", "10.2.0.0/24", internal=True)
        [self.task] = swarm.service("web", self.net, on=[1])
        swarm.service("hidden", self.inner, on=[1])
        self.swarm = swarm
        self.part = SwarmPart(swarm.assignment(1), swarm.facts(1), swarm.residents(1))
        self.planner = Planner()

    def attached(self, *at: NetworkId, bridges: tuple[BridgeNetwork, ...] = ()) -> LocalSandbox:
        """Bridge networks have the first interfaces, then docker_gwbridge, then overlays."""
        place = sandbox("c", *bridges, ports=(WEB,))
        overlays = tuple(
            OverlayEndpoint(
                network=network,
                name="shown",
                attachment=AttachmentId(f"place{number}"),
                number=len(bridges) + 1 + number,
                port=7,
                address=ADDRESS if network == self.net else IPv4Interface("10.2.0.200/24"),
            )
            for number, network in enumerate(at)
        )
        return msgspec.structs.replace(
            place, overlays=overlays, gateway=GATEWAY, gateway_number=len(bridges)
        )

    def plan(self, *places: LocalSandbox, alone: bool = False) -> KernelState:
        local = LocalPart((BACK, DEFAULT), places)
        return self.planner.plan(Desired(None if alone else self.part, local))


def test_it_has_what_a_task_has_on_the_network() -> None:
    world = World()
    place = world.attached(world.net)
    state = world.plan(place)
    own, overlay = state[place.key], state[overlay_namespace(world.net)]
    task = state[world.swarm.sandbox(world.task).key]
    assert own.links["eth1"].addresses == {ADDRESS}
    assert own.tables["ip", "weft"].services is task.tables["ip", "weft"].services
    assert own.tables["ip", "weft"].body == task.tables["ip", "weft"].body
    senders = overlay.tables["bridge", "weft"].sets["senders"].elements
    assert (mac_for(ADDRESS.ip), ADDRESS.ip) in senders
    port = overlay.links["veth7"].port
    assert port is not None
    assert port.locked
    assert not port.learning


def test_docker_gwbridge_is_its_way_out_and_publishes_its_ports() -> None:
    world = World()
    place = world.attached(world.net)
    state = world.plan(place)
    assert gateway_port(place.id) in state[HOST].links
    assert state[place.key].links["eth0"].addresses == {GATEWAY}
    ports = state[HOST].tables["ip", "weft"].sets[HOST_PORTS].elements
    assert ports["tcp", 8080] == (GATEWAY.ip, 80)
    defaults = [r for r in state[place.key].routes if r.destination.prefixlen == 0]
    assert [(r.via, r.device) for r in defaults] == [(IPv4Address("172.18.0.1"), "eth0")]


def test_a_bridge_network_that_leads_outside_is_the_way_out() -> None:
    world = World()
    place = world.attached(world.net, bridges=(BACK,))
    state = world.plan(place)
    assert set(state[place.key].links) == {"eth0", "eth2"}
    assert gateway_port(place.id) not in state[HOST].links
    assert ("tcp", 8080) not in state[HOST].tables["ip", "weft"].sets[HOST_PORTS].elements
    defaults = [r for r in state[place.key].routes if r.destination.prefixlen == 0]
    assert [r.device for r in defaults] == ["eth0"]
    assert state[place.key].tables["ip", "weft"].body.count("chain resolver {") == 1


def test_on_an_internal_network_it_has_no_way_out() -> None:
    world = World()
    place = world.attached(world.inner)
    state = world.plan(place)
    assert set(state[place.key].links) == {"eth1"}
    assert gateway_port(place.id) not in state[HOST].links


def test_without_the_swarm_its_other_networks_are_as_if_it_were_on_no_other() -> None:
    world = World()
    both = world.attached(world.net, bridges=(BACK,))
    assert world.plan(both, alone=True) == Planner().plan(
        Desired(None, LocalPart((BACK, DEFAULT), (sandbox("c", BACK, ports=(WEB,)),)))
    )


def test_what_does_not_change_is_the_same_object() -> None:
    world = World()
    place = world.attached(world.net)
    first, second = world.plan(place), world.plan(place)
    assert all(first[name] is second[name] for name in first.namespaces if name != HOST)
