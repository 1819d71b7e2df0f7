"""Which interfaces of a node a capture watches."""

from ipaddress import IPv4Interface

from tests.support.swarms import Swarm, padded
from weft.model.assignment import Overlays
from weft.model.capture import CaptureWanted
from weft.model.ids import AttachmentId, ContainerId, NetworkId, ServiceId, TaskId
from weft.model.local_sandbox import LocalSandbox, OverlayEndpoint
from weft.model.service import PublishedPort
from weft.network.attached import resident_of
from weft.network.desired import Desired, SwarmPart
from weft.network.plan import Planner
from weft.network.vantage import Vantage, vantages


def swarm() -> Swarm:
    """Two networks; `web` is on both and published, `db` on the second."""
    made = Swarm(2)
    front, back = (
        made.network("front", "10.1.0.0/24"),
        made.network("back", "10.2.0.0/24", "10.3.0.0/24"),
    )
    made.service("web", front, back, ports=[PublishedPort(target=80, published=8080)], on=[1, 2])
    made.service("db", back, on=[1])
    return made


def seen(made: Swarm, node: int, wanted: CaptureWanted) -> list[Vantage]:
    return list(vantages(made.assignment(node), made.residents(node), wanted))


def names(made: Swarm, node: int, wanted: CaptureWanted) -> list[str]:
    return [vantage.name for vantage in seen(made, node, wanted)]


def network(name: str, wire: bool = False) -> CaptureWanted:
    return CaptureWanted(network=NetworkId(padded(name)), wire=wire)


def test_a_network_is_seen_at_its_containers_and_in_its_tunnels() -> None:
    assert names(swarm(), 1, network("back")) == [
        "web.1/eth2", "db.1/eth0", "back/vxlan0", "back/vxlan1",
    ]  # fmt: skip
    assert names(swarm(), 2, network("back")) == ["web.2/eth2", "back/vxlan0", "back/vxlan1"]


def test_a_service_is_seen_at_all_its_overlays() -> None:
    wanted = CaptureWanted(service=ServiceId(padded("web")))
    assert names(swarm(), 2, wanted) == ["web.2/eth0", "web.2/eth1", "web.2/eth2"]


def test_a_task_is_seen_where_it_is_and_nowhere_else() -> None:
    made = swarm()
    task = next(id for id, task in made.tasks.items() if task.node == made.nodes[1])
    assert names(made, 2, CaptureWanted(task=TaskId(task)))[0] == "web.2/eth0"
    assert names(made, 1, CaptureWanted(task=TaskId(task), wire=True)) == []


def test_the_underlay_is_seen_where_something_is() -> None:
    made = swarm()
    assert names(made, 2, network("front", wire=True))[-1] == "underlay"
    made.remove(next(id for id, task in made.tasks.items() if task.node == made.nodes[1]))
    assert names(made, 2, network("front", wire=True)) == []


def test_each_interface_is_in_the_plan() -> None:
    made = swarm()
    for node in (1, 2):
        part = SwarmPart(made.assignment(node), made.facts(node), made.residents(node))
        state = Planner().plan(Desired(part))
        for wanted in (network("front"), network("back"), network("ingress")):
            found = seen(made, node, wanted)
            assert found
            for vantage in found:
                assert vantage.device in state.namespaces[vantage.namespace].links


def test_a_plain_container_is_seen_at_the_interface_that_it_has_there() -> None:
    network = NetworkId(padded("back"))
    endpoint = OverlayEndpoint(
        network=network, name="back", attachment=AttachmentId("a"), number=3, port=7,
        address=IPv4Interface("10.2.0.9/24"),
    )  # fmt: skip
    place = LocalSandbox(
        container=ContainerId("c" * 64), name="box", overlays=(endpoint,),
        gateway=IPv4Interface("172.18.0.9/16"),
    )  # fmt: skip
    resident = resident_of(place, {})
    assert resident is not None
    found = vantages(Overlays(), [resident], CaptureWanted(network=network))
    assert list(found) == [Vantage("box/eth3", resident.sandbox.key, "eth3")]
