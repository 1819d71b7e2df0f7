"""Updates and rollbacks with every option, over each other, of programs that start slowly, fail,
turn unhealthy or never become healthy: no more slots are down than allowed, and in the end the
service is what its options say.
"""

import os

import msgspec
import pytest
from hypothesis import HealthCheck as Check
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.control_room import LOOPS, ControlRoom
from weft.control.orchestrator.dirty import is_dirty
from weft.control.orchestrator.updater import rolled_back, with_spec
from weft.model.ids import NodeId
from weft.model.meta import SECOND
from weft.model.service import (
    ContainerSpec,
    RestartPolicy,
    Service,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
    UpdateState,
)
from weft.model.task import Task, TaskState, TaskStatus

GOOD, SLOW = "good", "slow"
"""Healthy at once; after some time."""
EXITS, NEVER, SICK = "exits", "never", "sick"
"""Ends before it is healthy; unhealthy without ever having been healthy; soon after."""
STUCK = "stuck"
"""Never healthy and never unhealthy."""
WELL, FAILING = (GOOD, SLOW), (EXITS, NEVER, SICK)
SLOWNESS, SICK_AFTER, STOPPING = 7 * SECOND, 2 * SECOND, 3 * SECOND
STEP = SECOND
EXAMPLES = max(40, int(os.environ.get("WEFT_SIM_EXAMPLES", "0")))
NEXT = {
    None: {UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED},
    UpdateState.UPDATING: {
        UpdateState.COMPLETED,
        UpdateState.PAUSED,
        UpdateState.ROLLBACK_STARTED,
    },
    UpdateState.ROLLBACK_STARTED: {UpdateState.ROLLBACK_COMPLETED, UpdateState.ROLLBACK_PAUSED},
    UpdateState.COMPLETED: {UpdateState.UPDATING},
    UpdateState.ROLLBACK_COMPLETED: {UpdateState.UPDATING},
    UpdateState.PAUSED: set(),
    UpdateState.ROLLBACK_PAUSED: set(),
}


class Room(ControlRoom):
    """A service on three nodes, whose tasks behave as their images are called."""

    def __init__(self, spec: ServiceSpec) -> None:
        super().__init__(nodes=3)
        self.id = self.service(spec)
        self.served: set[int] = set()
        """Slots that have served."""
        self.excused: set[int] = set()
        """Slots that have failed by themselves."""
        self.seen: UpdateState | None = None

    @property
    def it(self) -> Service:
        return self.state.services[self.id]

    def change(self, spec: ServiceSpec) -> None:
        self.put(with_spec(self.it, spec))
        self.seen = None

    def roll_back(self) -> None:
        if self.it.previous_spec is not None:
            self.put(rolled_back(self.it, self.now))
            self.seen = UpdateState.ROLLBACK_STARTED

    # --- agents

    def _moved(self, task: Task, steps: int) -> Task | None:
        status, age = task.status, self.now - task.status.timestamp
        if status.unhealthy_since:
            over = self.now >= status.unhealthy_since + STOPPING
            return task.observed(self._now(TaskState.FAILED, status)) if over else None
        image = task.spec.container.image
        if task.desired == TaskState.RUNNING:
            if task.state == TaskState.STARTING:
                return self._from_starting(task, image, age)
            if task.state == TaskState.RUNNING:
                return self._unhealthy(task) if image == SICK and age >= SICK_AFTER else None
        moved = super()._moved(task, steps)
        if moved is not None and moved.state == TaskState.RUNNING:
            return moved.observed(self._now(TaskState.STARTING))
        return moved

    def _from_starting(self, task: Task, image: str, age: int) -> Task | None:
        if image == EXITS:
            self.excused.add(task.slot)
            return task.observed(self._now(TaskState.FAILED))
        if image == NEVER:
            return self._unhealthy(task)
        if image == STUCK or (image == SLOW and age < SLOWNESS):
            return None
        return task.observed(self._now(TaskState.RUNNING))

    def _unhealthy(self, task: Task) -> Task:
        self.excused.add(task.slot)
        status = msgspec.structs.replace(task.status, timestamp=self.now, unhealthy_since=self.now)
        return task.observed(status)

    def _now(self, state: TaskState, last: TaskStatus | None = None) -> TaskStatus:
        since = last.unhealthy_since if last is not None else 0
        return TaskStatus(state, self.now, unhealthy_since=since)

    # --- time

    def go_on(self, seconds: int, allowed: int) -> None:
        """`allowed`: how many slots may be down at a time."""
        for _ in range(seconds * SECOND // STEP):
            for _ in range(30):
                changed = False
                for loop in LOOPS:
                    changed = bool(self.run(loop).changes) or changed
                    self.check(allowed)
                if not self.run_agents(9) and not changed:
                    break
                self.check(allowed)
            self.now += STEP

    def slots(self) -> dict[int, list[Task]]:
        slots: dict[int, list[Task]] = {}
        for task in self.state.tasks_of(self.id).values():
            if task.desired < TaskState.REMOVE:
                slots.setdefault(task.slot, []).append(task)
        return slots

    def check(self, allowed: int) -> None:
        slots = self.slots()
        serving = {slot for slot, tasks in slots.items() if any(t.serves for t in tasks)}
        self.served = (self.served | serving) & slots.keys()
        down = self.served - serving - self.excused
        assert len(down) <= allowed, f"slots {down} are down, {allowed} may be"
        status = self.it.update_status
        state = status.state if status is not None else None
        if state != self.seen:
            assert state in NEXT[self.seen], f"{state} after {self.seen}"
            self.seen = state


orders = st.sampled_from(["stop-first", "start-first"])
configs = st.builds(
    UpdateConfig,
    parallelism=st.integers(0, 3),
    delay=st.sampled_from([0, 2 * SECOND]),
    failure_action=st.sampled_from(["pause", "continue", "rollback"]),
    monitor=st.sampled_from([SECOND, 5 * SECOND]),
    max_failure_ratio=st.sampled_from([0.0, 0.0, 0.5]),
    order=orders,
)
rollbacks = configs.map(
    lambda c: (
        msgspec.structs.replace(c, failure_action="pause") if c.failure_action == "rollback" else c
    )
)


def spec_of(image: str, replicas: int, update: UpdateConfig, rollback: UpdateConfig) -> ServiceSpec:
    task = TaskSpec(container=ContainerSpec(image=image), restart=RestartPolicy(delay=SECOND))
    return ServiceSpec(name="web", replicas=replicas, task=task, update=update, rollback=rollback)


specs = st.builds(
    spec_of,
    st.sampled_from([GOOD, SLOW, EXITS, NEVER, SICK, STUCK]),
    st.integers(1, 5),
    configs,
    rollbacks,
)
steps = st.lists(st.tuples(st.none() | specs, st.integers(0, 12)), min_size=1, max_size=4)


def may_be_down(before: int, spec: ServiceSpec) -> int:
    """How many slots the updates so far, and one to this specification, may take down."""
    configs = (spec.update, spec.rollback)
    return max(
        before,
        *(0 if c.order == "start-first" else c.parallelism or spec.replicas or 0 for c in configs),
    )


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(Check))
@given(st.integers(1, 5), configs, rollbacks, steps)
def test_updates_keep_to_their_limits_and_end(
    replicas: int,
    update: UpdateConfig,
    rollback: UpdateConfig,
    steps: list[tuple[ServiceSpec | None, int]],
) -> None:
    room = Room(spec_of(GOOD, replicas, update, rollback))
    room.go_on(2, 0)
    assert len(room.served) == replicas
    allowed = may_be_down(0, room.it.spec)
    for spec, seconds in steps:
        if spec is None:
            room.roll_back()
        else:
            room.change(spec)
            allowed = may_be_down(allowed, spec)
        room.go_on(seconds, allowed)
    room.go_on(90, allowed)
    ends_as_it_should(room)


def test_two_rollbacks_at_once_take_no_more_slots_down_than_one_may() -> None:
    """The tasks of the first update, which still start, are right again: nobody makes others."""
    one = UpdateConfig(parallelism=1)
    all_at_once = UpdateConfig(parallelism=0, order="start-first")
    room = Room(spec_of(GOOD, 2, one, one))
    room.go_on(2, 0)
    room.change(spec_of(SLOW, 2, all_at_once, one))
    room.go_on(1, 1)
    room.roll_back()
    room.roll_back()
    room.go_on(90, 1)
    ends_as_it_should(room)


def ends_as_it_should(room: Room) -> None:
    service, slots = room.it, room.slots()
    state, spec = room.seen, service.spec
    image = spec.task.container.image
    config = spec.rollback if state is not None and "rollback" in state else spec.update
    current = {slot: [t for t in tasks if t.is_live] for slot, tasks in slots.items()}
    if state in (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED):
        assert image in FAILING
        assert config.failure_action != "continue"
        assert service.update_status is not None
        assert "paused due to failure or early termination of task" in service.update_status.message
        return
    if state in (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED):
        keeps_trying = image in FAILING and config.order == "start-first"
        assert image == STUCK or keeps_trying
        return
    for slot, tasks in current.items():
        assert not any(
            is_dirty(service, t, room.state.nodes.get(t.node or NodeId(""))) for t in tasks
        )
        assert len(tasks) <= 1, f"slot {slot} has {tasks}"
    if image in WELL:
        assert sorted(
            slot for slot, tasks in current.items() if tasks and tasks[0].serves
        ) == sorted(current)
        assert len(current) == spec.replicas


@pytest.mark.parametrize("image", FAILING)
@pytest.mark.parametrize("order", ["stop-first", "start-first"])
@pytest.mark.parametrize(
    ("action", "state"),
    [
        ("pause", UpdateState.PAUSED),
        ("rollback", UpdateState.ROLLBACK_COMPLETED),
        ("continue", UpdateState.COMPLETED),
    ],
)
def test_an_update_to_something_that_fails(
    image: str, order: str, action: str, state: UpdateState
) -> None:
    config = UpdateConfig(failure_action=action, order=order, delay=SICK_AFTER + SECOND)  # type: ignore[arg-type]
    room = Room(spec_of(GOOD, 4, config, UpdateConfig(order=order)))  # type: ignore[arg-type]
    room.go_on(2, 0)
    room.change(spec_of(image, 4, config, UpdateConfig(order=order)))  # type: ignore[arg-type]
    room.go_on(60, 1 if order == "stop-first" else 0)
    serving = [t for tasks in room.slots().values() for t in tasks if t.serves]
    if action == "continue":
        keeps_trying = order == "start-first" and image != SICK
        assert room.seen == (UpdateState.UPDATING if keeps_trying else state)
        return
    assert room.seen == state
    good = [t for t in serving if t.spec.container.image == GOOD]
    assert len(good) >= 3
    assert len(room.excused) == 1, "only one slot was tried"
    if action == "rollback":
        assert len(good) == 4


def test_a_task_that_is_slow_to_stop_has_failed_when_it_turned_unhealthy() -> None:
    """Within the monitored time, although its container ends after it: so it still counts when the
    next one fails."""
    config = UpdateConfig(
        monitor=SICK_AFTER + SECOND, max_failure_ratio=0.5, delay=SICK_AFTER + STOPPING + SECOND
    )
    assert config.monitor < SICK_AFTER + STOPPING
    room = Room(spec_of(GOOD, 2, config, UpdateConfig()))
    room.go_on(2, 0)
    room.change(spec_of(SICK, 2, config, UpdateConfig()))
    room.go_on(5, 1)
    meanwhile = room.seen
    assert meanwhile == UpdateState.UPDATING
    room.go_on(15, 1)
    assert room.seen == UpdateState.PAUSED


def test_an_update_over_another_begins_with_the_slots_that_are_down() -> None:
    config = UpdateConfig(parallelism=1)
    room = Room(spec_of(GOOD, 3, config, config))
    room.go_on(2, 0)
    room.change(spec_of(SLOW, 3, config, config))
    room.go_on(10, 1)
    (down,) = [slot for slot, tasks in room.slots().items() if not any(t.serves for t in tasks)]
    assert down != 1
    again = spec_of(SLOW, 3, config, config)
    container = msgspec.structs.replace(again.task.container, env=("A=b",))
    room.change(
        msgspec.structs.replace(
            again, task=msgspec.structs.replace(again.task, container=container)
        )
    )
    room.go_on(40, 1)
    assert room.seen == UpdateState.COMPLETED
