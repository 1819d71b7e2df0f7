"""Which flows are cut: those to tasks that no longer serve, where their choice is remembered, and
no others."""

import functools
import itertools
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.swarms import Swarm
from tests.unit.network.conftest import Told, histories
from weft.model.addresses import Protocol
from weft.model.assignment import Assignment
from weft.model.host_ports import HostPort, HostPorts
from weft.model.ids import NetworkId, TaskId
from weft.model.service import PublishedPort
from weft.model.workload import Resident
from weft.network.flows import Answered, Asked, Place, stale_flows
from weft.network.kernel_state import HOST, KernelState
from weft.network.own_ports import without_own_ports
from weft.network.plan import plan
from weft.network.sandbox import needs_gateway

few = settings(
    max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.fixture
def swarm() -> Swarm:
    """`web` in the mesh and on a network, on the second and the third host; `app` calls it from the
    first."""
    made = Swarm(3)
    net = made.network("mynet", "10.10.10.0/24")
    made.service(
        "web", net, ports=[PublishedPort(target=53, published=9001, protocol="udp")], on=[2, 3]
    )
    made.service("app", net, on=[1])
    return made


def tasks(swarm: Swarm, service: str) -> list[TaskId]:
    return [t.id for t in swarm.tasks.values() if t.service_name == service]


def planned_on(swarm: Swarm, node: int = 1) -> KernelState:
    return plan(swarm.assignment(node), swarm.facts(node), swarm.residents(node))


def after(swarm: Swarm, change: Callable[[], object], node: int = 1) -> set[Place]:
    before = planned_on(swarm, node)
    change()
    return stale_flows(before, planned_on(swarm, node))


def answered(address: str) -> Answered:
    return Answered(IPv4Address(address))


def test_a_task_that_stops_serving(swarm: Swarm) -> None:
    web, _ = tasks(swarm, "web")
    app = swarm.sandbox(tasks(swarm, "app")[0]).key
    cut = after(swarm, lambda: swarm.set_serving(web, False))
    mesh, inner = answered("10.0.0.6"), answered("10.10.10.6")
    assert cut == {(HOST, mesh), (app, inner), ("lb_mynet0000", inner)}


def test_a_task_that_is_gone_counts_as_well(swarm: Swarm) -> None:
    [web, _] = tasks(swarm, "web")
    assert (HOST, answered("10.0.0.6")) in after(swarm, lambda: swarm.remove(web))


def test_a_virtual_address_that_is_taken_back(swarm: Swarm) -> None:
    """Its tasks serve on, found by their own addresses. Flows to the virtual address would go on to
    them even when another service has it."""
    net, app = NetworkId("mynet" + "0" * 20), swarm.sandbox(tasks(swarm, "app")[0]).key

    def take_back() -> None:
        for id, record in swarm.services[net].items():
            swarm.services[net][id] = msgspec.structs.replace(record, virtual_address=None)

    inner = {answered("10.10.10.6"), answered("10.10.10.7"), answered("10.10.10.9")}
    assert after(swarm, take_back) == {
        (space, each) for space in (app, "lb_mynet0000") for each in inner
    }


def test_a_network_that_the_node_leaves_takes_its_namespaces_along(swarm: Swarm) -> None:
    """Nothing to cut where nothing is left."""
    [app] = tasks(swarm, "app")
    assert after(swarm, lambda: swarm.remove(app)) == set()


def test_nothing_to_cut_when_tasks_come(swarm: Swarm) -> None:
    net = swarm.definitions[NetworkId("mynet" + "0" * 20)].id
    assert after(swarm, lambda: swarm.service("more", net, on=[2])) == set()


def test_a_port_that_begins_to_be_published(swarm: Swarm) -> None:
    """Flows to it that are older end at the host; a service without a task is enough, it
    refuses."""
    ports = [
        PublishedPort(target=53, published=9002, protocol="udp"),
        PublishedPort(target=80, published=9003),
        PublishedPort(target=80, published=9004, mode="host"),
    ]
    mesh = {(HOST, Asked("udp", 9002)), (HOST, Asked("tcp", 9003))}
    assert after(swarm, lambda: swarm.service("mesh", ports=ports[:2])) == mesh
    host = {(HOST, Asked("tcp", 9004))}
    assert after(swarm, lambda: swarm.service("direct", ports=ports[2:], on=[1])) == host
    [web, _] = tasks(swarm, "web")
    assert not {
        s for _, s in after(swarm, lambda: swarm.set_serving(web, False)) if isinstance(s, Asked)
    }


def test_a_host_mode_port_whose_container_is_replaced(swarm: Swarm) -> None:
    port = PublishedPort(target=53, published=9100, protocol="udp", mode="host")
    [old] = swarm.service("direct", ports=[port], on=[1])
    address = swarm.sandbox(old).gateway.ip

    def replace() -> None:
        swarm.service("direct2", ports=[port], on=[1])
        swarm.remove(old)

    assert after(swarm, replace) == {(HOST, Answered(address))}


def test_a_port_of_the_hosts_own_is_not_published_and_its_flows_are_left_alone(
    swarm: Swarm,
) -> None:
    swarm.own_ports = frozenset({("udp", 9002)})
    ports = [PublishedPort(target=53, published=9002, protocol="udp")]
    assert after(swarm, lambda: swarm.service("mesh", ports=ports)) == set()


def test_of_a_containers_ports_only_those_are_left_out_that_are_the_hosts_own_and_not_the_meshs(
    swarm: Swarm,
) -> None:
    def port(
        number: int, mode: Literal["ingress", "host"] = "host", protocol: Protocol = "tcp"
    ) -> PublishedPort:
        return PublishedPort(target=80, published=number, protocol=protocol, mode=mode)

    kept = [port(9000, "ingress"), port(9001), port(9000, protocol="udp")]
    swarm.service("web", ports=[port(9000), *kept], on=[1])
    swarm.service("plain", ports=kept, on=[1])
    residents = swarm.residents(1)
    left = without_own_ports(residents, HostPorts.of([HostPort("tcp", 9000)]))
    assert [list(workload.ports) for _, workload in left if workload.ports] == [kept, kept]
    assert [r.workload is after.workload for r, after in zip(residents, left, strict=True)] == [
        port(9000) not in resident.workload.ports for resident in residents
    ]
    assert without_own_ports(residents, HostPorts()) == residents


def test_a_container_that_loses_one_host_mode_port_of_two(swarm: Swarm) -> None:
    """Its flows stay, whether its ports are on all addresses of the host or on one."""
    at = swarm.vtep(swarm.nodes[0])
    both: list[IPv4Address | None] = [None, at]
    for number, (kept, lost) in enumerate(itertools.product(both, both)):
        first, second = 9100 + 2 * number, 9101 + 2 * number
        ports = [
            PublishedPort(target=53, published=n, protocol="udp", mode="host", host_address=address)
            for n, address in ((first, kept), (second, lost))
        ]
        swarm.service(f"direct{number}x", ports=ports, on=[1])

        def listen(own: int = second) -> None:
            swarm.own_ports = frozenset({("udp", own)})

        swarm.own_ports = frozenset()
        assert after(swarm, listen) == set()


def test_a_task_that_comes_in_place_of_another_on_fewer_networks(swarm: Swarm) -> None:
    """It is a container of its own: what the other one reached by name still serves."""
    net, ports = NetworkId("mynet" + "0" * 20), [PublishedPort(target=53, published=9300)]
    [first] = swarm.service("both", net, ports=ports, on=[1])
    left = {Answered(attachment.address.ip) for attachment in swarm.tasks[first].attachments}

    def replace() -> None:
        swarm.remove(first)
        swarm.publish_anew("both", [PublishedPort(target=53, published=9301)], on=[1])

    assert {stale for _, stale in after(swarm, replace) if isinstance(stale, Answered)} == left


def test_services_that_share_a_port_at_addresses_of_their_own(swarm: Swarm) -> None:
    """The one that stops serving is told from those that serve at another address, or at all."""
    one, other = (swarm.vtep(node) for node in swarm.nodes[:2])
    by_address = {}
    for name, address in (("one", one), ("other", other), ("all", None)):
        port = PublishedPort(target=53, published=9200, protocol="udp", host_address=address)
        [by_address[address]] = swarm.service(name, ports=[port], on=[2])
    for task in by_address.values():
        [address] = [a.address.ip for a in swarm.tasks[task].attachments]
        stop = functools.partial(swarm.set_serving, task, False)
        assert after(swarm, stop) == {(HOST, Answered(address))}
    [task, *_] = by_address.values()
    assert after(swarm, lambda: swarm.set_serving(task, True)) == set()


def published_directly(told: Assignment, residents: Sequence[Resident]) -> set[IPv4Address]:
    """Addresses of containers with host-mode ports."""
    return {
        sandbox.gateway.ip
        for sandbox, workload in residents
        if needs_gateway(workload, told.networks) and any(p.mode == "host" for p in workload.ports)
    }


@few
@given(histories())
def test_only_addresses_that_stopped_serving(moments: tuple[Told, Told]) -> None:
    before, now = (plan(*moment) for moment in moments)
    cut = stale_flows(before, now)
    serving = [
        {e.address.ip for v in told.networks.values() for e in v.endpoints.values() if e.serving}
        for told, _, _ in moments
    ]
    published = [published_directly(told, residents) for told, _, residents in moments]
    had, has = ({*some, *more} for some, more in zip(serving, published, strict=True))
    assert {stale.address for _, stale in cut if isinstance(stale, Answered)} <= had - has
    assert stale_flows(now, now) == set()
