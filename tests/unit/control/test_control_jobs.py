"""Jobs, case by case: what starts, what is tried again, what an update does, what users see."""

import msgspec
import pytest

from tests.support.control_room import ControlRoom
from weft.control.orchestrator.dirty import is_up_to_date
from weft.control.orchestrator.progress import Progress, progress
from weft.control.requests import services
from weft.control.requests.validation import validate_service
from weft.errors import InvalidArgument, Unsupported
from weft.model.codec import decode, encode
from weft.model.ids import ServiceId
from weft.model.meta import SECOND
from weft.model.node import NodeState
from weft.model.service import (
    ContainerSpec,
    Job,
    JobStatus,
    Mode,
    RestartPolicy,
    Service,
    ServiceSpec,
    TaskSpec,
)
from weft.model.task import Task, TaskState

TASK = TaskSpec(container=ContainerSpec(image="one"))
SPEC = ServiceSpec(name="job", replicas=3, job=Job(2), task=TASK)
GLOBAL = ServiceSpec(name="job", replicas=None, job=Job(), task=TASK)


def restarting(spec: ServiceSpec, policy: RestartPolicy) -> ServiceSpec:
    return msgspec.structs.replace(spec, task=msgspec.structs.replace(TASK, restart=policy))


class Scene:
    def __init__(self, spec: ServiceSpec, nodes: int = 3) -> None:
        self.room = ControlRoom(nodes)
        self.id: ServiceId = self.room.service(spec)
        self.room.settle()

    @property
    def service(self) -> Service:
        return self.room.state.services[self.id]

    def running(self) -> list[Task]:
        return self.room.running(self.id)

    def end(self, task: Task, state: TaskState = TaskState.COMPLETE) -> None:
        self.room.report(task, state)
        self.room.settle()

    def complete_all(self) -> list[int]:
        """Completes task after task; returns the slots in that order."""
        slots = []
        while running := self.running():
            slots.append(running[0].slot)
            self.end(running[0])
        return slots

    def progress(self) -> Progress:
        return progress(self.room.state, self.service)

    def update(self, **changes: object) -> None:
        self.room.update(self.id, msgspec.structs.replace(self.service.spec, **changes))
        self.room.settle()

    def force(self) -> None:
        task = self.service.spec.task
        self.update(task=msgspec.structs.replace(task, force_update=task.force_update + 1))


def test_a_replicated_job_runs_so_many_at_a_time_until_all_have_completed() -> None:
    scene = Scene(SPEC)
    assert scene.progress() == Progress(running=2, desired=2, completed=0)
    scene.end(scene.running()[0])
    assert scene.progress() == Progress(running=2, desired=2, completed=1)
    assert scene.complete_all() == [2, 3]
    assert scene.progress() == Progress(running=0, desired=2, completed=3)
    tasks = scene.room.state.tasks_of(scene.id).values()
    assert {task.shown_desired for task in tasks} == {TaskState.COMPLETE}
    assert sorted(task.number for task in tasks) == [0, 1, 2]
    assert {task.name.split(".")[1] for task in tasks} >= {"1", "2"}


def test_a_job_without_room_or_without_completions_does_nothing() -> None:
    assert Scene(msgspec.structs.replace(SPEC, job=Job(0))).progress() == Progress(0, 0, 0)
    assert Scene(msgspec.structs.replace(SPEC, replicas=0)).progress() == Progress(0, 2, 0)


def test_a_global_job_completes_on_each_node_and_on_nodes_that_join_later() -> None:
    scene = Scene(GLOBAL, nodes=2)
    assert scene.progress() == Progress(running=2, desired=2, completed=0)
    scene.complete_all()
    assert scene.progress() == Progress(running=0, desired=0, completed=2)
    scene.room.join("node3")
    scene.room.settle()
    assert [task.node for task in scene.running()] == ["node3"]
    scene.complete_all()
    scene.room.set_node("node1", availability="drain")
    scene.room.settle()
    scene.room.set_node("node1", availability="active")
    scene.room.settle()
    assert scene.progress() == Progress(running=0, desired=0, completed=3)


@pytest.mark.parametrize("condition", ["any", "on-failure"])
def test_a_task_that_fails_is_tried_again_after_the_delay(condition: str) -> None:
    policy = RestartPolicy(condition, delay=7 * SECOND)  # type: ignore[arg-type]
    scene = Scene(restarting(SPEC, policy))
    failed = scene.running()[0]
    since = scene.room.now
    scene.end(failed, TaskState.FAILED)
    assert scene.room.now - since >= 7 * SECOND
    assert [task.slot for task in scene.running()] == [1, 2]
    assert failed.id not in {task.id for task in scene.running()}
    assert scene.complete_all() == [1, 2, 3]


@pytest.mark.parametrize(
    ("policy", "tries"),
    [(RestartPolicy("none"), 1), (RestartPolicy("on-failure", max_attempts=2), 3)],
)
def test_a_task_is_tried_only_as_often_as_the_policy_allows(
    policy: RestartPolicy, tries: int
) -> None:
    scene = Scene(restarting(SPEC, policy))
    for _ in range(tries):
        first = next(task for task in scene.running() if task.slot == 1)
        scene.end(first, TaskState.FAILED)
    assert scene.complete_all() == [2, 3]
    assert scene.progress() == Progress(running=0, desired=2, completed=2)
    scene.force()
    assert scene.complete_all() == [1, 2, 3]


@pytest.mark.parametrize("loss", ["down", "drained", "removed"])
def test_a_task_that_loses_its_node_runs_again_elsewhere(loss: str) -> None:
    scene = Scene(SPEC)
    lost, other = scene.running()
    scene.end(other)
    assert lost.node is not None
    if loss == "removed":
        scene.room.remove(scene.room.state.nodes[lost.node])
    else:
        down, drain = (NodeState.DOWN, None) if loss == "down" else (None, "drain")
        scene.room.set_node(lost.node, down, drain)  # type: ignore[arg-type]
    scene.room.settle()
    [again] = [task for task in scene.running() if task.slot == lost.slot]
    assert again.node != lost.node
    assert scene.complete_all() == [1, 3]
    assert scene.progress().completed == 3
    # What the lost task still reports changes nothing.
    for state, availability in ((NodeState.READY, "active"), (NodeState.DOWN, "drain")):
        for node in list(scene.room.state.nodes):
            scene.room.set_node(node, state, availability)  # type: ignore[arg-type]
        scene.room.settle()
    assert scene.progress() == Progress(running=0, desired=2, completed=3)


@pytest.mark.parametrize("history", [0, 5])
def test_a_completion_that_a_lost_node_reports_late_ends_the_second_try(history: int) -> None:
    """Also if the record of the second try, which is newer, is the only one to be kept."""
    scene = Scene(msgspec.structs.replace(SPEC, replicas=1))
    cluster = scene.room.state.cluster
    assert cluster is not None
    kept = msgspec.structs.replace(cluster.spec, task_history=history)
    scene.room.put(msgspec.structs.replace(cluster, spec=kept))
    [lost] = scene.running()
    assert lost.node is not None
    scene.room.set_node(lost.node, NodeState.DOWN)
    scene.room.settle()
    [again] = scene.running()
    seen = scene.room.state.tasks[lost.id]
    assert not is_up_to_date(scene.room.state, seen)
    scene.room.set_node(lost.node, NodeState.READY)
    scene.end(seen)
    assert scene.running() == []
    assert scene.room.state.tasks[again.id].state == TaskState.SHUTDOWN
    assert scene.progress() == Progress(running=0, desired=2, completed=1)


def test_an_update_stops_the_job_and_starts_it_again() -> None:
    scene = Scene(SPEC)
    scene.end(scene.running()[0])
    before = set(scene.room.state.tasks_of(scene.id))
    assert scene.service.job_status == JobStatus(0, scene.service.meta.created_at)
    began = scene.room.now = scene.room.now + SECOND
    scene.update(labels={"colour": "blue"})
    assert scene.service.job_status == JobStatus(1, began)
    assert scene.progress() == Progress(running=2, desired=2, completed=0)
    assert {task.job_iteration for task in scene.running()} == {1}
    old = [task for task in scene.room.state.tasks_of(scene.id).values() if not task.job_iteration]
    assert {task.id for task in old} == before
    states = sorted(task.state.name for task in old)
    assert states == ["COMPLETE", "SHUTDOWN", "SHUTDOWN"]
    assert not any(is_up_to_date(scene.room.state, task) for task in old)
    assert sorted(scene.complete_all()) == [1, 2, 3]


def test_tasks_of_the_earlier_iteration_count_until_they_have_stopped() -> None:
    scene = Scene(SPEC)
    scene.complete_all()
    scene.force()
    scene.end(scene.running()[0])
    assert [task.slot for task in scene.running()] == [2, 3]
    scene.room.update(scene.id, scene.service.spec)
    for loop in ("orchestrator", "allocator", "scheduler"):
        scene.room.run(loop)
    new = [t for t in scene.room.state.tasks_of(scene.id).values() if t.job_iteration == 2]
    assert [(task.slot, task.desired) for task in new] == [
        (2, TaskState.READY), (3, TaskState.READY),
    ]  # fmt: skip


def test_fewer_at_a_time_wait_until_few_enough_run() -> None:
    scene = Scene(SPEC)
    scene.room.update(scene.id, msgspec.structs.replace(SPEC, job=Job(1)))
    scene.room.run("orchestrator")
    tasks = scene.room.state.tasks_of(scene.id).values()
    assert not [task for task in tasks if task.job_iteration == 1]
    scene.room.settle()
    assert [task.slot for task in scene.running()] == [1]


def test_a_task_that_never_stops_holds_up_the_next_iteration_for_a_minute_only() -> None:
    scene = Scene(msgspec.structs.replace(SPEC, job=Job(1)), nodes=2)
    scene.end(scene.running()[0])
    [stuck] = scene.running()
    assert stuck.node is not None
    scene.room.set_node(stuck.node, NodeState.DISCONNECTED)
    since = scene.room.now
    scene.update(replicas=1)
    [task] = scene.running()
    assert task.slot == 1
    assert scene.room.now - since >= 60 * SECOND


def test_a_slot_that_waits_to_be_tried_again_keeps_its_place_among_those_that_run() -> None:
    scene = Scene(restarting(SPEC, RestartPolicy("on-failure", delay=30 * SECOND)))
    for state in (TaskState.FAILED, TaskState.REJECTED):
        # The second time the replacement cannot be prepared, and its own waits for the same moment.
        task = max(
            (t for t in scene.room.state.tasks_of(scene.id).values() if t.slot == 1),
            key=lambda task: task.id,
        )
        scene.room.report(task, state)
        scene.room.settle(patience=1 * SECOND)
        assert [task.slot for task in scene.running()] == [2]
    scene.room.settle()
    assert [task.slot for task in scene.running()] == [1, 2]


def test_history_is_cut_but_a_completion_is_kept() -> None:
    scene = Scene(SPEC)
    assert scene.room.state.cluster is not None
    kept = scene.room.state.cluster.spec.task_history
    for _ in range(kept + 2):
        scene.complete_all()
        scene.force()
    scene.complete_all()
    tasks = scene.room.state.tasks_of(scene.id).values()
    assert len(tasks) == 3 * kept
    assert sum(task.job_iteration == scene.service.iteration for task in tasks) == 3


def test_fewer_completions_remove_the_slots_and_more_add_some() -> None:
    scene = Scene(SPEC)
    scene.complete_all()
    scene.update(replicas=1)
    assert scene.complete_all() == [1]
    assert {task.slot for task in scene.room.state.tasks_of(scene.id).values()} == {1}
    scene.update(replicas=4)
    assert scene.complete_all() == [1, 2, 3, 4]


def test_a_rollback_starts_the_former_job() -> None:
    scene = Scene(SPEC)
    scene.update(replicas=1)
    version = scene.service.meta.version
    scene.room.commit(services.rollback(scene.room.state, scene.id, version, scene.room.now))
    scene.room.settle()
    assert scene.service.update_status is None
    assert scene.service.iteration == 2
    assert scene.complete_all() == [1, 2, 3]


def test_removal_ends_all_tasks() -> None:
    scene = Scene(SPEC)
    scene.room.remove(scene.service)
    scene.room.settle()
    assert not scene.room.state.tasks


def test_a_new_leader_and_a_stored_job_go_on_where_they_were() -> None:
    scene = Scene(SPEC)
    scene.end(scene.running()[0])
    assert scene.room.decide_anew("orchestrator").changes == ()
    assert decode(encode(scene.service), Service) == scene.service
    for task in scene.running():
        assert decode(encode(task), Task) == task


def test_a_service_stored_without_the_fields_of_jobs_is_what_it_was() -> None:
    room = ControlRoom(1)
    id = room.service(ServiceSpec(name="web", task=TASK))
    stored = msgspec.msgpack.decode(encode(room.state.services[id]))
    assert "job_status" not in stored
    assert "job" not in stored["spec"]
    service = decode(msgspec.msgpack.encode(stored), Service)
    assert (service.spec.mode, service.iteration) == ("replicated", None)


MODES = {
    spec.mode: spec
    for spec in (
        SPEC, GLOBAL, msgspec.structs.replace(SPEC, job=None), msgspec.structs.replace(GLOBAL, job=None),
    )
}  # fmt: skip


@pytest.mark.parametrize("before", MODES)
@pytest.mark.parametrize("after", MODES)
def test_the_mode_never_changes(before: Mode, after: Mode) -> None:
    room = ControlRoom(1)
    id = room.service(MODES[before])
    if before == after:
        room.update(id, MODES[after])
        return
    with pytest.raises(Unsupported, match="service mode change is not allowed"):
        room.update(id, MODES[after])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"job": Job(-1)}, "Maximum concurrent jobs must not be negative"),
        ({"replicas": -1}, "Total completed jobs must not be negative"),
        ({"replicas": 1_000_001}, "Number of replicas must be at most 1000000"),
    ],
)
def test_numbers_that_are_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        validate_service(msgspec.structs.replace(SPEC, **changes))
