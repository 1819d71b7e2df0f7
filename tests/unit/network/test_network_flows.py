"""Which flows are cut: those to tasks that no longer serve, where their choice is remembered, and no others."""

from ipaddress import IPv4Address

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.swarms import Swarm
from tests.unit.network.conftest import histories
from weft.model.service import PublishedPort
from weft.network.flows import stale_flows
from weft.network.kernel_state import HOST

few = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture
def swarm():
    """`web` in the mesh and on a network, on the second and the third host; `app` calls it from the first."""
    made = Swarm(3)
    net = made.network("mynet", "10.10.10.0/24")
    made.service("web", net, ports=[PublishedPort(target=53, published=9001, protocol="udp")], on=[2, 3])
    made.service("app", net, on=[1])
    return made


def tasks(swarm, service):
    return [t.id for t in swarm.tasks.values() if t.service_name == service]


def after(swarm, change):
    before = swarm.assignment(1)
    change()
    return stale_flows(before, swarm.assignment(1), swarm.sandboxes(1))


def test_a_task_that_stops_serving(swarm):
    web, other = tasks(swarm, "web")
    app = swarm.sandbox(tasks(swarm, "app")[0]).key
    cut = after(swarm, lambda: swarm.set_serving(web, False))
    mesh, inner = IPv4Address("10.0.0.6"), IPv4Address("10.10.10.6")
    assert cut == sorted([(HOST, mesh), (app, inner), ("lb_mynet0000", inner)])
    assert other not in {address for _, address in cut}


def test_a_task_that_is_gone_counts_as_well(swarm):
    [web, _] = tasks(swarm, "web")
    assert (HOST, IPv4Address("10.0.0.6")) in after(swarm, lambda: swarm.remove(web))


def test_a_network_that_the_node_leaves_takes_its_namespaces_along(swarm):
    """Nothing to cut where nothing is left."""
    [app] = tasks(swarm, "app")
    assert after(swarm, lambda: swarm.remove(app)) == []


def test_nothing_to_cut_when_tasks_come(swarm):
    net = swarm.definitions["mynet" + "0" * 20].id
    assert after(swarm, lambda: swarm.service("more", net, on=[2])) == []


@few
@given(histories())
def test_only_addresses_that_stopped_serving(moments):
    (before, _, _), (now, _, sandboxes) = moments
    cut = stale_flows(before, now, sandboxes)

    def serving(assignment):
        return {e.address.ip for v in assignment.networks.values() for e in v.endpoints.values() if e.serving and e.service}

    assert {address for _, address in cut} <= serving(before) - serving(now)
    assert cut == sorted(set(cut))
    assert stale_flows(now, now, sandboxes) == []
