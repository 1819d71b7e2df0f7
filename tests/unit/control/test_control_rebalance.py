"""Tasks go back to a node that returns, if the service asks for it."""

import re
from collections import Counter

import msgspec
import pytest

from tests.support.control_room import LOOPS, ControlRoom
from weft.control.orchestrator.rebalancer import REST, STEADY
from weft.control.requests import services
from weft.control.requests.validation import validate_service
from weft.control.scheduler.ranking import MANY_FAILURES
from weft.errors import InvalidArgument
from weft.model.ids import NodeId, ServiceId
from weft.model.labels import REBALANCE, START_AFTER, moves_at_once
from weft.model.meta import SECOND
from weft.model.node import NodeState
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    Job,
    Placement,
    PublishedPort,
    Resources,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from weft.model.state import ClusterState
from weft.model.task import TaskState, TaskStatus

GOOD_VALUES = {"true": 1, "false": 0, "1": 1, "20": 20, "1000": 1000}
LONG = 3600 * SECOND
ORDERS = ("start-first", "stop-first")
TASK = TaskSpec(container=ContainerSpec(image="web"))


def spec_of(
    replicas: int = 6, moves: str = "true", order: str = "stop-first", task: TaskSpec = TASK
) -> ServiceSpec:
    return ServiceSpec(
        name="web",
        replicas=replicas,
        labels={REBALANCE: moves} if moves else {},
        update=UpdateConfig(order=order),  # type: ignore[arg-type]
        task=task,
    )


def lopsided(spec: ServiceSpec, nodes: int = 2) -> tuple[ControlRoom, ServiceId]:
    """A room in which all tasks are on all nodes but the last, which has just come back."""
    room = ControlRoom(nodes=nodes)
    room.set_node(f"node{nodes}", NodeState.DOWN)
    id = room.service(spec)
    room.settle()
    room.now += LONG
    room.set_node(f"node{nodes}", NodeState.READY)
    return room, id


def homes(room: ControlRoom, id: ServiceId) -> dict[str, int]:
    return dict(sorted(Counter(str(task.node) for task in room.running(id)).items()))


def watch(room: ControlRoom, id: ServiceId, seconds: int = 600) -> list[int]:
    """Plays the time a second at a time, agents one step a second; the number of healthy tasks
    after each step."""
    seen: list[int] = []
    for _ in range(seconds):
        for loop in LOOPS:
            room.run(loop)
        room.run_agents()
        seen.append(len(room.running(id)))
        room.now += SECOND
    return seen


def test_the_label_says_how_many_tasks_may_move_at_a_time() -> None:
    assert moves_at_once({}) == 0
    for text, moves in GOOD_VALUES.items():
        assert moves_at_once({REBALANCE: text}) == moves
        services.creation(ClusterState(), ServiceId("web"), spec_of(moves=text), 0)


@pytest.mark.parametrize(
    "text", ["", "yes", "True", "0", "-1", "1.5", "1001", "\u0661", "9" * 5000]
)
def test_another_value_is_refused_at_create_and_update(text: str) -> None:
    said = f"Labels: {REBALANCE}={text[:40]}"
    with pytest.raises(InvalidArgument, match=re.escape(said)):
        services.creation(ClusterState(), ServiceId("web"), spec_of(moves=text or " "), 0)
    room, id = lopsided(spec_of())
    with pytest.raises(InvalidArgument, match="must be true, false, or a number from 1 to 1000"):
        room.update(id, msgspec.structs.replace(spec_of(), labels={REBALANCE: text}))


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"replicas": None}, "a service of mode global cannot be rebalanced"),
        ({"job": Job()}, "a service of mode replicated-job cannot be rebalanced"),
        (
            {"task": msgspec.structs.replace(TASK, placement=Placement(spread=("node.labels.a",)))},
            "a service with placement preferences cannot be rebalanced",
        ),
    ],
)
def test_services_that_cannot_be_rebalanced(fields: dict[str, object], cause: str) -> None:
    validate_service(msgspec.structs.replace(spec_of(moves="false"), **fields))
    with pytest.raises(InvalidArgument, match=f"Labels: {REBALANCE}=2: {cause}"):
        validate_service(msgspec.structs.replace(spec_of(moves="2"), **fields))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("moves", [1, 2])
def test_tasks_go_back_to_a_node_that_returns(order: str, moves: int) -> None:
    room, id = lopsided(spec_of(order=order, moves="true" if moves == 1 else str(moves)))
    tasks = len(room.state.tasks_of(id))
    numbers = watch(room, id)
    assert homes(room, id) == {"node1": 3, "node2": 3}
    assert sorted(task.slot for task in room.running(id)) == [1, 2, 3, 4, 5, 6]
    assert len(room.state.tasks_of(id)) == tasks + 3
    if order == "start-first":
        assert (min(numbers), max(numbers)) == (6, 6 + moves)
    else:
        assert (min(numbers), max(numbers)) == (6 - moves, 6)
    for loop in LOOPS:
        assert room.decide_anew(loop).changes == ()


@pytest.mark.parametrize("moves", ["", "false", "stored before the label had a meaning"])
def test_without_the_label_tasks_stay_where_they_went(moves: str) -> None:
    room, id = lopsided(spec_of(moves=moves))
    room.settle(LONG)
    assert homes(room, id) == {"node1": 6}


def test_the_label_works_when_it_comes_later_and_only_until_it_goes() -> None:
    room, id = lopsided(spec_of(moves="", order="start-first"))
    room.now += LONG
    room.update(id, spec_of(order="start-first"))
    room.until(lambda: len([t for t in room.state.tasks_of(id).values() if t.is_live]) == 7)
    room.update(id, spec_of(moves="false", order="start-first"))
    room.settle(LONG)
    assert homes(room, id) == {"node1": 5, "node2": 1}


def test_a_node_must_have_been_ready_for_a_while() -> None:
    room, id = lopsided(spec_of())
    returned = room.now
    room.until(lambda: len(homes(room, id)) == 2)
    assert room.now >= returned + STEADY


def test_a_node_that_comes_and_goes_gets_no_task_each_time() -> None:
    room, id = lopsided(spec_of(replicas=4))
    for _ in range(20):
        watch(room, id, 45)
        room.set_node("node2", NodeState.DOWN)
        watch(room, id, 5)
        room.set_node("node2", NodeState.READY)
    given = [task for task in room.state.tasks.values() if task.node == "node2"]
    assert 1 <= len(given) <= 2 * (1 + 20 * 50 * SECOND // REST)
    room.settle(LONG)
    assert homes(room, id) == {"node1": 2, "node2": 2}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("end", [TaskState.REJECTED, TaskState.FAILED])
@pytest.mark.parametrize("history", [0, 5])
def test_a_move_that_fails_is_not_tried_again_at_once(
    order: str, end: TaskState, history: int
) -> None:
    room, id = lopsided(spec_of(order=order))
    cluster = room.state.cluster
    assert cluster is not None
    kept = msgspec.structs.replace(cluster.spec, task_history=history)
    room.put(msgspec.structs.replace(cluster, spec=kept))
    before, seen, tries = room.now, set[str](), 0
    while room.now < before + LONG:
        for loop in LOOPS:
            room.run(loop)
        for task in list(room.state.tasks_on(NodeId("node2")).values()):
            if task.is_live and task.state >= TaskState.ASSIGNED:
                room.report(task, end, "broken")
                tries += task.id not in seen
                seen.add(task.id)
        room.run_agents()
        if order == "start-first":
            assert len(room.running(id)) == 6
        room.now += SECOND
    # Stop-first, the successors of a failed task may go to the node, too, until it has failed there
    # many times.
    each = MANY_FAILURES if (order, end) == ("stop-first", TaskState.FAILED) else 1
    assert 2 * each <= tries <= each * (1 + LONG // REST)
    watch(room, id, 1)
    room.settle(LONG)
    assert homes(room, id) == {"node1": 3, "node2": 3}


def reserving(memory: int) -> TaskSpec:
    return msgspec.structs.replace(TASK, reservations=Resources(memory=memory))


def constrained(constraint: str) -> TaskSpec:
    return msgspec.structs.replace(TASK, placement=Placement(constraints=(constraint,)))


@pytest.mark.parametrize(
    "task", [reserving(2 << 30), constrained("node.labels.disk == ssd"), constrained("a == b")]
)
def test_nodes_that_cannot_take_the_task_get_none(task: TaskSpec) -> None:
    """The scheduler's own filters."""
    room = ControlRoom()
    room.join("node1", labels={"disk": "ssd"}, resources=Resources(4_000_000_000, 64 << 30))
    id = room.service(spec_of(task=task))
    room.settle()
    waits = task == constrained("a == b")
    assert homes(room, id) == ({} if waits else {"node1": 6})
    room.now += LONG
    room.join("node2", labels={"disk": "hdd"}, resources=Resources(4_000_000_000, 1 << 30))
    room.settle(LONG)
    assert "node2" not in homes(room, id)
    room.join("node3", labels={"disk": "ssd"}, resources=Resources(4_000_000_000, 4 << 30))
    room.settle(LONG)
    room3 = min(3, (4 << 30) // (task.reservations.memory or 1))
    assert homes(room, id) == ({} if waits else {"node1": 6 - room3, "node3": room3})


def test_a_neighbour_that_leaves_makes_room() -> None:
    """No event of the service says so."""
    room = ControlRoom(nodes=1)
    id = room.service(spec_of(replicas=2, task=reserving(3 << 30)))
    room.settle()
    other = room.service(ServiceSpec(name="other", task=reserving(6 << 30)))
    room.join("node2")
    room.settle(LONG)
    assert homes(room, other) == {"node2": 1}
    assert homes(room, id) == {"node1": 2}
    room.remove(room.state.services[other])
    room.settle(LONG)
    assert homes(room, id) == {"node1": 1, "node2": 1}


def test_a_port_of_the_host_can_be_taken_once() -> None:
    room = ControlRoom(nodes=2)
    ports = EndpointSpec(ports=(PublishedPort(80, 8080, mode="host"),))
    room.service(ServiceSpec(name="other", task=constrained("node.id == node2"), endpoint=ports))
    spec = msgspec.structs.replace(spec_of(replicas=3), endpoint=ports)
    id = room.service(spec)
    room.settle()
    assert homes(room, id) == {"node1": 1}
    room.join("node3")
    room.join("node4")
    room.settle(LONG)
    assert homes(room, id) == {"node1": 1, "node3": 1, "node4": 1}


def test_a_limit_per_node_holds() -> None:
    task = msgspec.structs.replace(TASK, placement=Placement(max_replicas=4))
    room, id = lopsided(spec_of(replicas=8, task=task, moves="3", order="start-first"), nodes=3)
    room.now += LONG
    for _ in range(600):
        for loop in LOOPS:
            room.run(loop)
        room.run_agents()
        live = [t for t in room.state.tasks.values() if t.is_live]
        assert max(Counter(t.node for t in live).values()) <= 4
        room.now += SECOND
    assert sorted(homes(room, id).values()) == [2, 3, 3]


@pytest.mark.parametrize("policy", [RestartPolicy("none"), RestartPolicy("any", max_attempts=1)])
def test_a_slot_that_may_not_be_started_again_is_not_moved(policy: RestartPolicy) -> None:
    """A move is a start; what has none left would be lost if the new task failed."""
    task = msgspec.structs.replace(TASK, restart=policy)
    room, id = lopsided(spec_of(task=task))
    room.settle(LONG)
    moved = {} if policy.condition == "none" else {"node2": 3}
    assert homes(room, id) == {"node1": 6 - sum(moved.values()), **moved}


def test_a_service_that_is_short_of_tasks_gives_none_away() -> None:
    room, id = lopsided(spec_of(moves="1"))
    slow = room.running(id)[0]
    unhealthy = TaskStatus(TaskState.RUNNING, room.now, unhealthy_since=room.now)
    room.put(msgspec.structs.replace(slow, status=unhealthy))
    room.now += LONG
    room.settle(LONG)
    assert homes(room, id) == {"node1": 6}


@pytest.mark.parametrize("order", ORDERS)
def test_a_move_into_room_that_was_taken_meanwhile_loses_nothing(order: str) -> None:
    """Between the decision to move and the scheduler's."""
    room, id = lopsided(spec_of(replicas=2, task=reserving(3 << 30), order=order))
    room.now += LONG
    assert any(room.run("orchestrator").changes)
    moved = next(t for t in room.state.tasks.values() if t.state == TaskState.NEW)
    assert moved.node == "node2"
    node = room.state.nodes[NodeId("node2")]
    small = msgspec.structs.replace(node.description, resources=Resources(1, 1 << 30))
    room.put(msgspec.structs.replace(node, description=small))
    room.settle(LONG)
    assert homes(room, id) == {"node1": 2}
    assert moved.id not in room.state.tasks


def waiting_for_database(order: str) -> ServiceSpec:
    label = {REBALANCE: "true", START_AFTER: "database"}
    return msgspec.structs.replace(spec_of(order=order), labels=label)


@pytest.mark.parametrize("order", ORDERS)
def test_no_task_moves_that_would_wait_for_another_service(order: str) -> None:
    """After an update that changes no task, the next new task waits for the other service anew."""
    room, id = lopsided(spec_of(order=order))
    room.now += LONG
    room.service(ServiceSpec(name="database", task=constrained("node.labels.disk == ssd")))
    room.update(id, waiting_for_database(order))
    room.settle(LONG)
    assert homes(room, id) == {"node1": 6}
    room.join("node3", labels={"disk": "ssd"})
    room.settle(LONG)
    assert homes(room, id) == {"node1": 2, "node2": 2, "node3": 2}


@pytest.mark.parametrize("order", ORDERS)
def test_a_move_ends_if_the_other_service_fails_meanwhile(order: str) -> None:
    room, id = lopsided(spec_of(order=order))
    fragile = msgspec.structs.replace(TASK, restart=RestartPolicy("none"))
    database = room.service(ServiceSpec(name="database", task=fragile))
    room.settle(SECOND)
    room.update(id, waiting_for_database(order))
    room.now += LONG
    assert any(room.run("orchestrator").changes)
    room.report(room.running(database)[0], TaskState.FAILED)
    room.settle(LONG)
    live = [task for task in room.state.tasks_of(id).values() if task.is_live]
    assert len(live) == 6
    assert homes(room, id) == {"node1": 6 if order == "start-first" else 5}
