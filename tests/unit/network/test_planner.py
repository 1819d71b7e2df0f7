"""A planner that remembers: what it says is what one that does not would say, and what did not
change is the same object."""

from collections.abc import Sequence

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.swarms import Swarm
from tests.unit.network.conftest import Told, bring, differences, histories, inputs, kernel_in, told
from weft.model.assignment import NetworkView, Overlays
from weft.model.sandbox import NodeFacts
from weft.model.service import PublishedPort
from weft.model.workload import Resident
from weft.network.desired import Desired, SwarmPart
from weft.network.diff import diff
from weft.network.kernel_state import HOST, KernelState, Namespace, Table
from weft.network.memo import Memo
from weft.network.operations import (
    AddForwarding,
    AddNeighbour,
    ChangeTable,
    RemoveForwarding,
    RemoveNeighbour,
)
from weft.network.plan import Planner, plan

few = settings(
    max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
PEER = AddForwarding | AddNeighbour | RemoveForwarding | RemoveNeighbour


def desired(overlays: Overlays, facts: NodeFacts, residents: Sequence[Resident]) -> Desired:
    return Desired(SwarmPart(overlays, facts, residents))


def in_any_order(state: KernelState) -> dict[str, Namespace]:
    """The state without what depends on a service's past: the order of its tasks, and the size of
    its ring."""

    def plain(table: Table) -> Table:
        services = {
            d: msgspec.structs.replace(s, backends=tuple(sorted(s.backends)), size=0)
            for d, s in table.services.items()
        }
        return msgspec.structs.replace(table, services=services)

    return {
        name: msgspec.structs.replace(
            space, tables={key: plain(table) for key, table in space.tables.items()}
        )
        for name, space in state.namespaces.items()
    }


@few
@given(st.lists(inputs(node=1), min_size=1, max_size=3), histories())
def test_what_a_planner_remembers_changes_nothing(
    others: list[Told], moments: tuple[Told, Told]
) -> None:
    """Neither swarms that have nothing to do with this one, nor this one a moment ago."""
    planner = Planner()
    for input in (*others, *moments):
        assert in_any_order(planner.plan(desired(*input))) == in_any_order(plan(*input))


@few
@given(histories())
def test_a_kernel_is_led_from_one_moment_to_the_next_by_elements(
    moments: tuple[Told, Told],
) -> None:
    planner = Planner()
    before, after = (planner.plan(desired(*moment)) for moment in moments)
    kernel = kernel_in(before)
    bring(kernel, after, before)
    assert differences(kernel, after) == []
    assert all(space.rewritten == 0 for space in kernel.spaces.values())


@few
@given(inputs())
def test_the_same_again_is_the_same_object(input: Told) -> None:
    planner = Planner()
    before, after = planner.plan(desired(*input)), planner.plan(desired(*input))
    assert all(after[name] is space for name, space in before.namespaces.items())


# --- one task that changes


class Node:
    """Two networks with two containers each on this node, and services on both and in the mesh."""

    def __init__(self) -> None:
        self.swarm = Swarm(3)
        self.one, self.other = (self.swarm.network(f"net{n}x", f"10.{n}.0.0/24") for n in (1, 2))
        self.swarm.service("here", self.one, on=[1, 1])
        self.swarm.service("there", self.other, on=[1, 1])
        ports = [PublishedPort(target=80, published=8080)]
        self.tasks = self.swarm.service("web", self.one, ports=ports, on=[2, 3, 2, 3])
        self.planner = Planner()
        self.told = told(self.swarm, 1)

    def state(self) -> KernelState:
        """As the agent has it: what did not change is the same object."""
        assignment, facts, residents = told(self.swarm, 1)
        old, facts, _ = self.told
        views = {
            id: old.networks[id]
            if view == old.networks.get(id)
            else view_after(view, old.networks[id])
            for id, view in assignment.networks.items()
        }
        assignment = msgspec.structs.replace(assignment, networks=views)
        self.told = assignment, facts, residents
        return self.planner.plan(desired(assignment, facts, residents))

    def box(self, service: str) -> list[str]:
        return [
            self.swarm.sandbox(t.id).key
            for t in self.swarm.tasks.values()
            if t.service_name == service
        ]


def view_after(view: NetworkView, old: NetworkView) -> NetworkView:
    endpoints = {
        id: old.endpoints[id] if e == old.endpoints.get(id) else e
        for id, e in view.endpoints.items()
    }
    services = {
        id: old.services[id] if s == old.services.get(id) else s for id, s in view.services.items()
    }
    return msgspec.structs.replace(
        view, definition=old.definition, endpoints=endpoints, services=services
    )


def test_a_task_that_stops_serving_is_an_element_of_each_table_of_its_networks() -> None:
    node = Node()
    before = node.state()
    node.swarm.set_serving(node.tasks[0], False)
    after = node.state()
    operations = diff(before, after)
    assert all(isinstance(o, ChangeTable) for o in operations)
    assert {o.namespace for o in operations} == {HOST, "lb_net1x0000", *node.box("here")}
    same = {name for name, space in after.namespaces.items() if space is before[name]}
    assert same == after.namespaces.keys() - {o.namespace for o in operations}
    [shared] = {
        id(o.changes) for o in operations if isinstance(o, ChangeTable) and o.namespace != HOST
    }
    assert shared, "what is the same in all of them is one object"
    for name in node.box("here"):
        assert before[name].links is after[name].links
        assert before[name].routes is after[name].routes


def test_a_task_that_comes_costs_its_peer_entries_and_no_other() -> None:
    node = Node()
    before = node.state()
    node.swarm.service("more", node.other, on=[2])
    after = node.state()
    operations = diff(before, after)
    assert {o.namespace for o in operations if isinstance(o, PEER)} == {"1-net2x00000"}
    assert sum(isinstance(o, PEER) for o in operations) == 2
    touched = {"lb_net2x0000", "1-net2x00000", *node.box("there")}
    assert {o.namespace for o in operations} == touched
    assert all(
        after[name] is space for name, space in before.namespaces.items() if name not in touched
    )


def test_a_host_that_comes_is_an_element_of_what_knows_hosts() -> None:
    node = Node()
    node.swarm.service("entry", ports=[PublishedPort(target=80, published=80)], on=[1])
    before = node.state()
    swarm = node.swarm
    balancer = next(e for e in swarm.endpoints[swarm.ingress].values() if e.task is None)
    external_etcd = msgspec.structs.replace(
        balancer,
        id="lb-more",
        node="more",
        vtep=swarm.facts(3).data_path_address + 1,
        address=swarm.address(swarm.ingress),
    )
    swarm.endpoints[swarm.ingress]["lb-more"] = external_etcd
    operations = diff(before, node.state())
    tables = {
        (o.namespace, o.table.family, o.table.name)
        for o in operations
        if isinstance(o, ChangeTable)
    }
    [entry] = node.box("entry")
    web = [swarm.sandbox(t).key for t in node.tasks if swarm.tasks[t].node == swarm.nodes[0]]
    assert tables == {
        (HOST, "ip", "weft-underlay"),
        *((box, family, "weft") for box in (entry, *web) for family in ("ip", "netdev")),
    }
    assert all(isinstance(o, ChangeTable | PEER) for o in operations)


# --- the memory itself


def test_the_memory_lasts_for_a_round() -> None:
    memo = Memo()
    made: list[str] = []

    def make(value: str) -> list[str]:
        made.append(value)
        return [value]

    one, equal = [1, 2], [1, 2]
    first = memo.keep("a", (one,), lambda: make("a"))
    assert memo.keep("a", (one,), lambda: make("a")) is first
    memo.turn()
    assert memo.keep("a", (one,), lambda: make("a")) is first
    memo.turn()
    assert memo.keep("a", (equal,), lambda: make("b")) == ["b"], "equal is not the same"
    memo.turn()
    memo.turn()
    memo.keep("a", (equal,), lambda: make("c"))
    assert made == ["a", "b", "c"], "nobody asked for it in the round between"


def test_what_follows_gets_what_was_before() -> None:
    memo = Memo()
    for n in range(3):
        assert memo.follow("a", (object(),), lambda before: (before or 0) + 1) == n + 1
        memo.turn()
