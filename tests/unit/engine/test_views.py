"""Networks as the API shows them, compared with what a real Swarm shows."""

import msgspec

from tests.support.swarms import Swarm
from weft.engine.views import connected_networks, container_gateway, container_networks
from weft.model.assignment import Assignment
from weft.model.container import Container, ContainerConfig
from weft.model.ids import ContainerId
from weft.model.sandbox import NodeFacts
from weft.model.service import ContainerSpec, PublishedPort
from weft.model.workload import Resident


def scene() -> tuple[Swarm, Assignment, list[Resident], NodeFacts, dict[ContainerId, Container]]:
    swarm = Swarm(3)
    net = swarm.network("demo-net", "10.10.10.0/24")
    swarm.service("demo", net, ports=(PublishedPort(target=80, published=8080),), on=[1, 2, 3])
    residents = swarm.residents(1)
    containers: dict[ContainerId, Container] = {}
    for sandbox, workload in residents:
        name = workload.name
        config = ContainerConfig(
            id=sandbox.container,
            name=name,
            spec=ContainerSpec(image="i"),
            hostname="h",
            namespace="/x",
        )
        containers[sandbox.container] = Container(config=config, image="i", args=())
    return swarm, swarm.assignment(1), residents, swarm.facts(1), containers


def test_the_networks_of_a_node() -> None:
    _, assignment, residents, facts, containers = scene()
    networks = {n.name: n for n in connected_networks(assignment, residents, facts, containers)}
    assert [(n.name, n.driver, n.scope) for n in networks.values()] == [
        ("demo-net", "overlay", "swarm"), ("docker_gwbridge", "bridge", "local"), ("ingress", "overlay", "swarm"),
    ]  # fmt: skip
    assert len({n.id for n in networks.values()}) == 3
    assert [n.id for n in connected_networks(assignment, residents, facts, containers)] == [
        n.id for n in networks.values()
    ]
    assert [(str(s), g) for s, g in networks["docker_gwbridge"].pools] == [
        ("172.18.0.0/16", "172.18.0.1")
    ]


def test_an_overlay_with_its_containers_and_its_load_balancer() -> None:
    _swarm, assignment, residents, facts, containers = scene()
    network = next(
        n
        for n in connected_networks(assignment, residents, facts, containers)
        if n.name == "demo-net"
    )
    task = residents[0].workload
    assert [(e.key, e.name) for e in network.endpoints] == [
        (residents[0].sandbox.container, task.name),
        ("lb-demo-net", "demo-net-endpoint"),
    ]
    assert network.endpoints[0].address == task.attachments[1].address
    assert network.options == {"com.docker.network.driver.overlay.vxlanid_list": "4097"}
    assert [p.address for p in network.peers] == ["10.59.72.11", "10.59.72.12", "10.59.72.13"]
    [service] = network.services
    assert (service.name, len(service.tasks), service.ports) == ("demo", 3, ())
    assert network.endpoints[0].endpoint_id in {t.endpoint_id for t in service.tasks}


def test_the_ingress_network() -> None:
    _, assignment, residents, facts, containers = scene()
    network = next(
        n
        for n in connected_networks(assignment, residents, facts, containers)
        if n.name == "ingress"
    )
    assert [(e.key, e.name) for e in network.endpoints][1] == ("ingress-sbox", "ingress-endpoint")
    assert network.ingress
    assert network.services[0].ports == ("Target: 80, Publish: 8080",)


def test_a_container_on_its_networks() -> None:
    _swarm, assignment, residents, facts, containers = scene()
    id = residents[0].sandbox.container
    networks = container_networks(id, assignment, residents, facts, containers)
    task = residents[0].workload
    assert [(name, e.address) for name, (_, e) in networks.items()] == [
        ("ingress", task.attachments[0].address), ("demo-net", task.attachments[1].address),
    ]  # fmt: skip
    gateway = container_gateway(id, assignment, residents, facts)
    assert gateway is not None
    assert (gateway.name, gateway.address) == (
        f"gateway_{residents[0].sandbox.key}",
        residents[0].sandbox.gateway,
    )
    assert (
        container_networks(ContainerId("unknown"), assignment, residents, facts, containers) == {}
    )
    assert container_gateway(ContainerId("unknown"), assignment, residents, facts) is None


def test_the_gateway_bridge_lists_what_has_a_leg_on_it() -> None:
    _, assignment, residents, facts, containers = scene()
    network = next(
        n
        for n in connected_networks(assignment, residents, facts, containers)
        if n.name == "docker_gwbridge"
    )
    assert [(e.key, e.name, str(e.address)) for e in network.endpoints] == [
        (residents[0].sandbox.container, f"gateway_{residents[0].sandbox.key}", "172.18.0.3/16"),
        ("ingress-sbox", "gateway_ingress-sbox", "172.18.0.2/16"),
    ]
    internal = {
        id: msgspec.structs.replace(
            v, definition=msgspec.structs.replace(v.definition, internal=True)
        )
        for id, v in assignment.networks.items()
    }
    sealed = msgspec.structs.replace(assignment, networks=internal)
    assert container_gateway(residents[0].sandbox.container, sealed, residents, facts) is None
