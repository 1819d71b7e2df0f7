"""Services that start after others: what is waited for, for how long, and what is said
meanwhile."""

import re
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.control_room import ControlRoom
from weft.control.requests import services
from weft.control.scheduler.start_order import STACK, circle
from weft.errors import InvalidArgument
from weft.model.ids import ServiceId
from weft.model.labels import START_AFTER
from weft.model.service import (
    ContainerSpec,
    Job,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
)
from weft.model.task import Task, TaskState


def spec(name: str, *after: str, replicas: int | None = 2, **fields: object) -> ServiceSpec:
    """`x_web` is the service web of the stack x."""
    stack, _, own = name.rpartition("_")
    labels = {STACK: stack} if own != name else {}
    labels |= {START_AFTER: ",".join(after)} if after else {}
    task = TaskSpec(container=ContainerSpec(image="app"), restart=RestartPolicy(delay=0))
    made = ServiceSpec(name=name, replicas=replicas, task=task, labels=labels)
    return msgspec.structs.replace(made, **fields)


def create(room: ControlRoom, wanted: ServiceSpec) -> ServiceId:
    id = ServiceId(room.new_id("svc"))
    room.commit(services.creation(room.state, id, wanted, room.now))
    return id


def waits(room: ControlRoom, service: ServiceId) -> set[str]:
    """The reasons of the tasks without a node."""
    tasks = room.state.tasks_of(service).values()
    return {t.status.err for t in tasks if t.state == TaskState.PENDING and t.is_live}


def decide(room: ControlRoom) -> None:
    """Without agents."""
    for _ in range(4):
        for loop in ("orchestrator", "allocator", "scheduler"):
            room.run(loop)


def test_tasks_wait_until_all_of_the_named_service_run() -> None:
    room = ControlRoom(nodes=2)
    web, db = create(room, spec("web", "db")), create(room, spec("db"))
    decide(room)
    assert waits(room, web) == {"waits for db (not all of its tasks run)"}
    assert waits(room, db) == set()
    first, second = room.state.tasks_of(db).values()
    room.report(first, TaskState.RUNNING)
    decide(room)
    assert waits(room, web) == {"waits for db (not all of its tasks run)"}
    room.report(second, TaskState.RUNNING)
    decide(room)
    assert waits(room, web) == set()


def test_a_stacks_own_service_is_meant_and_one_that_is_missing_is_waited_for() -> None:
    room = ControlRoom(nodes=1)
    create(room, spec("cache"))
    web = create(room, spec("x_web", "db", "cache"))
    room.settle()
    assert waits(room, web) == {"waits for db (no such service)"}
    create(room, spec("x_db"))
    room.settle()
    assert len(room.running(web)) == 2
    create(room, spec("x_cache", replicas=1, task=_nowhere()))
    late = create(room, spec("x_late", "cache", "x_db"))
    room.settle()
    assert waits(room, late) == {"waits for x_cache (not all of its tasks run)"}


def _nowhere() -> TaskSpec:
    placement = msgspec.structs.replace(
        spec("any").task.placement, constraints=("node.labels.none == yes",)
    )
    return msgspec.structs.replace(spec("any").task, placement=placement)


def test_restarts_wait_for_nobody_and_a_new_version_waits_again() -> None:
    room = ControlRoom(nodes=2)
    web, db = create(room, spec("web", "db", replicas=1)), create(room, spec("db", replicas=1))
    room.settle()
    room.update(db, spec("db", replicas=1, task=_nowhere()))
    room.settle()
    assert room.running(db) == []
    (task,) = room.running(web)
    room.report(task, TaskState.FAILED)
    room.settle()
    (again,) = room.running(web)
    assert again.id != task.id
    forced = msgspec.structs.replace(spec("web").task, force_update=1)
    room.update(web, spec("web", "db", replicas=1, task=forced))
    room.settle()
    assert waits(room, web) == {"waits for db (not all of its tasks run)"}
    room.update(db, spec("db", replicas=1))
    room.settle()
    assert len(room.running(web)) == 1


def test_without_the_label_and_after_its_removal_nobody_waits() -> None:
    room = ControlRoom(nodes=1)
    web = create(room, spec("web", "db"))
    room.settle()
    room.update(web, spec("web"))
    room.settle()
    assert len(room.running(web)) == 2


def test_a_waiting_service_and_one_that_is_waited_for_can_be_removed() -> None:
    room = ControlRoom(nodes=1)
    web, db = create(room, spec("web", "db")), create(room, spec("db", task=_nowhere()))
    room.settle()
    room.commit(services.removal(room.state, db))
    room.settle()
    assert waits(room, web) == {"waits for db (no such service)"}
    room.commit(services.removal(room.state, web))
    room.settle()
    assert not room.state.tasks


@pytest.mark.parametrize("replicas", [2, None])
def test_jobs_count_when_they_have_completed(replicas: int | None) -> None:
    room = ControlRoom(nodes=2)
    concurrent = None if replicas is None else 1
    job = create(room, spec("migrate", replicas=replicas, job=Job(concurrent)))
    web = create(room, spec("web", "migrate"))
    for _ in range(2):
        room.settle()
        assert waits(room, web) == {"waits for migrate (the job has not completed)"}
        room.report(room.running(job)[0], TaskState.COMPLETE)
    room.settle()
    assert len(room.running(web)) == 2


def test_a_task_that_completed_and_is_not_started_again_counts() -> None:
    room = ControlRoom(nodes=1)
    once = msgspec.structs.replace(spec("any").task, restart=RestartPolicy(condition="on-failure"))
    setup = create(room, spec("setup", replicas=1, task=once))
    decide(room)
    web = create(room, spec("web", "setup"))
    (task,) = room.state.tasks_of(setup).values()
    room.report(task, TaskState.FAILED)
    decide(room)
    assert waits(room, web) == {"waits for setup (not all of its tasks run)"}
    (again,) = (t for t in room.state.tasks_of(setup).values() if t.is_live)
    room.report(again, TaskState.COMPLETE)
    room.settle()
    assert len(room.running(web)) == 2


def test_a_global_service_counts_on_each_node_that_takes_it_also_before_it_has_tasks() -> None:
    room = ControlRoom(nodes=2)
    agent, web = create(room, spec("agent", replicas=None)), create(room, spec("web", "agent"))
    for loop in ("orchestrator", "allocator"):
        room.run(loop)
    for task in list(room.state.tasks_of(agent).values()):
        room.remove(task)
    room.run("scheduler")
    assert waits(room, web) == {"waits for agent (not all of its tasks run)"}
    room.set_node("node2", availability="pause")
    room.settle()
    assert len(room.running(web)) == 2


@pytest.mark.parametrize(
    ("existing", "new", "names"),
    [
        ((), spec("web", "web"), "web waits for web"),
        ((), spec("x_web", "web"), "x_web waits for x_web"),
        ((spec("db", "web"),), spec("web", "db"), "web waits for db waits for web"),
        (
            (spec("x_a", "b", "c"), spec("x_b", "x_c"), spec("d")),
            spec("x_c", "d", "a"),
            "x_c waits for x_a waits for x_b waits for x_c|x_c waits for x_a waits for x_c",
        ),
    ],
)
def test_a_circle_is_refused_with_its_names(
    existing: Sequence[ServiceSpec], new: ServiceSpec, names: str
) -> None:
    room = ControlRoom()
    for other in existing:
        create(room, other)
    label = re.escape(f"Labels: {START_AFTER}={new.labels[START_AFTER]}: ")
    with pytest.raises(InvalidArgument, match=f"^{label}({names})$"):
        create(room, new)
    id = create(room, spec(new.name))
    with pytest.raises(InvalidArgument, match=f"^{label}({names})$"):
        room.update(id, new)


EDGES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=10)


@given(EDGES, st.lists(st.sampled_from([None, 0, 1, 3]), min_size=6, max_size=6))
def test_whatever_waits_for_whatever_each_starts_after_those_it_names_or_is_refused(
    edges: list[tuple[int, int]], replicas: list[int | None]
) -> None:
    room = ControlRoom(nodes=2)
    ids: dict[str, ServiceId] = {}
    refused = set()
    for n in range(6):
        after = sorted({f"s{to}" for start, to in edges if start == n})
        wanted = spec(f"s{n}", *after, replicas=replicas[n])
        if circle(room.state, wanted):
            with pytest.raises(InvalidArgument):
                create(room, wanted)
            refused.add(n)
            wanted = spec(f"s{n}", replicas=replicas[n])
        ids[f"s{n}"] = create(room, wanted)
    assert bool(refused) == _has_circle(edges)
    room.settle()
    started: dict[str, list[int]] = {name: [] for name in ids}
    names = {id: name for name, id in ids.items()}
    begun: dict[str, int] = {}
    for number, event in enumerate(room.events):
        task = event.after
        if isinstance(task, Task) and task.state == TaskState.RUNNING:
            started[names[task.service]].append(number)
        if isinstance(task, Task) and task.state == TaskState.ASSIGNED:
            begun.setdefault(names[task.service], number)
    for n, wanted_replicas in enumerate(replicas):
        expected = 2 if wanted_replicas is None else wanted_replicas
        assert len(room.running(ids[f"s{n}"])) == expected
    for start, to in edges:
        if start not in refused and f"s{start}" in begun and started[f"s{to}"]:
            assert max(started[f"s{to}"]) < begun[f"s{start}"]


def _has_circle(edges: Sequence[tuple[int, int]]) -> bool:
    """By taking away, again and again, what waits for nothing."""
    left = set(edges)
    while free := {edge for edge in left if not any(start == edge[1] for start, _ in left)}:
        left -= free
    return bool(left)
