"""The life of a task as steps: every way through it ends, and never does a thing twice."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.agent.task_steps import (
    RebootVerdict,
    Step,
    TaskView,
    expired,
    failed_before,
    next_step,
    outcome,
)
from weft.model.container import Container, ContainerConfig, ContainerState
from weft.model.health import HealthStatus
from weft.model.ids import ContainerId
from weft.model.service import ContainerSpec
from weft.model.task import TaskState

REPORTS = {
    Step.REPORT_PREPARING: TaskState.PREPARING,
    Step.REPORT_READY: TaskState.READY,
    Step.REPORT_STARTING: TaskState.STARTING,
    Step.REPORT_RUNNING: TaskState.RUNNING,
}


def after(view: TaskView, step: Step) -> TaskView:
    """The world in which the step succeeded."""
    change = msgspec.structs.replace
    match step:
        case Step.PULL:
            return change(view, image=True)
        case Step.CONNECT:
            return change(view, connected=True)
        case Step.CREATE:
            return change(view, container=ContainerState.CREATED)
        case Step.START:
            return change(view, container=ContainerState.RUNNING)
        case Step.STOP:
            return change(view, container=ContainerState.EXITED)
        case Step.DELETE:
            return change(view, container=None)
        case Step.FINISH:
            return change(view, state=outcome(view, None)[0], connected=False)
        case Step.REPORT_UNHEALTHY:
            return change(view, unhealthy="sick")
    return change(view, state=REPORTS[step])


def way(view: TaskView) -> list[Step]:
    steps = []
    for _ in range(20):
        step = next_step(view)
        steps.append(step)
        if step in (Step.WAIT, Step.WATCH, Step.FORGET):
            return steps
        view = after(view, step)
    raise AssertionError(f"no end: {steps}")


NEW = TaskView(state=TaskState.ACCEPTED, desired=TaskState.RUNNING)


def test_from_nothing_to_running() -> None:
    assert [s.name for s in way(NEW)] == [
        "REPORT_PREPARING", "PULL", "CONNECT", "CREATE", "REPORT_READY", "REPORT_STARTING", "START", "REPORT_RUNNING", "WATCH",
    ]  # fmt: skip


def test_a_task_meant_to_be_ready_waits_before_it_starts() -> None:
    assert [s.name for s in way(msgspec.structs.replace(NEW, desired=TaskState.READY, image=True))][
        -2:
    ] == [
        "REPORT_READY",
        "WAIT",
    ]


def test_a_task_is_not_made_before_its_secrets_are_here() -> None:
    waiting = msgspec.structs.replace(NEW, supplied=False, state=TaskState.PREPARING)
    assert next_step(waiting) is Step.PULL
    assert next_step(msgspec.structs.replace(waiting, image=True)) is Step.AWAIT_DATA


def test_a_revived_task_is_not_started_before_its_secrets_are_here() -> None:
    lost = running(container=ContainerState.EXITED, verdict=RebootVerdict.REVIVED, supplied=False)
    assert next_step(lost) is Step.AWAIT_DATA
    assert next_step(msgspec.structs.replace(lost, supplied=True)) in (Step.START, Step.CONNECT)
    assert next_step(running(supplied=False)) is Step.WATCH


def running(**changes: Any) -> TaskView:
    base = TaskView(
        state=TaskState.RUNNING,
        desired=TaskState.RUNNING,
        container=ContainerState.RUNNING,
        connected=True,
    )
    return msgspec.structs.replace(base, **changes)


READY_TO_GO = running(
    state=TaskState.PREPARING, container=ContainerState.CREATED, desired=TaskState.SHUTDOWN
)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (running(desired=TaskState.SHUTDOWN), ["STOP", "FINISH", "WAIT"]),
        (running(desired=TaskState.REMOVE), ["STOP", "DELETE", "FINISH", "WAIT"]),
        (running(assigned=False, desired=TaskState.REMOVE), ["STOP", "DELETE", "FINISH", "FORGET"]),
        (running(container=ContainerState.EXITED), ["FINISH", "WAIT"]),
        (running(container=None), ["FINISH", "WAIT"]),
        (running(container=ContainerState.EXITED, verdict=RebootVerdict.OPEN), ["WAIT"]),
        (running(container=ContainerState.EXITED, verdict=RebootVerdict.OPEN, desired=TaskState.SHUTDOWN), ["FINISH", "WAIT"]),
        (running(container=ContainerState.EXITED, verdict=RebootVerdict.REVIVED, connected=False), ["CONNECT", "START", "WATCH"]),
        (running(state=TaskState.FAILED, container=ContainerState.EXITED), ["WAIT"]),
        (running(state=TaskState.FAILED, container=ContainerState.EXITED, desired=TaskState.REMOVE), ["DELETE", "WAIT"]),
        (running(state=TaskState.FAILED, container=ContainerState.EXITED, assigned=False), ["DELETE", "FORGET"]),
        (running(health=HealthStatus.UNHEALTHY), ["REPORT_UNHEALTHY", "STOP", "FINISH", "WAIT"]),
        (running(state=TaskState.STARTING, health=HealthStatus.UNHEALTHY), ["REPORT_UNHEALTHY", "STOP", "FINISH", "WAIT"]),
        (running(state=TaskState.STARTING, health=HealthStatus.STARTING), ["WATCH"]),
        (running(health=HealthStatus.STARTING), ["WATCH"]),
        (running(state=TaskState.STARTING, health=HealthStatus.HEALTHY), ["REPORT_RUNNING", "WATCH"]),
        (running(health=HealthStatus.UNHEALTHY, desired=TaskState.SHUTDOWN), ["STOP", "FINISH", "WAIT"]),
        (running(unhealthy="sick", health=HealthStatus.HEALTHY), ["STOP", "FINISH", "WAIT"]),
        (running(unhealthy="sick", container=ContainerState.EXITED, verdict=RebootVerdict.REVIVED), ["FINISH", "WAIT"]),
        (READY_TO_GO, ["DELETE", "FINISH", "WAIT"]),
        (running(state=TaskState.ACCEPTED, container=None, desired=TaskState.SHUTDOWN), ["FINISH", "WAIT"]),
    ],
)  # fmt: skip
def test_ways_to_the_end(view: TaskView, expected: list[str]) -> None:
    assert [s.name for s in way(view)] == expected


views = st.builds(
    TaskView, state=st.sampled_from(TaskState), desired=st.sampled_from(TaskState), assigned=st.booleans(),
    container=st.none() | st.sampled_from(ContainerState), image=st.booleans(), connected=st.booleans(),
    verdict=st.sampled_from(RebootVerdict), health=st.none() | st.sampled_from(HealthStatus), unhealthy=st.sampled_from(["", "sick"]),
)  # fmt: skip


@given(views)
def test_every_way_ends_and_does_nothing_twice(view: TaskView) -> None:
    steps = way(view)
    assert len(steps) == len(set(steps))


@given(views)
def test_the_observed_state_only_grows(view: TaskView) -> None:
    while (step := next_step(view)) not in (Step.WAIT, Step.WATCH, Step.FORGET):
        new = after(view, step)
        assert new.state >= view.state
        view = new


@given(views)
def test_a_running_container_is_never_started_nor_made_again(view: TaskView) -> None:
    if view.container is ContainerState.RUNNING:
        assert not {Step.CREATE, Step.START} & set(way(view))


def container(exit_code: int = 0, error: str = "") -> Container:
    config = ContainerConfig(
        id=ContainerId("c"),
        name="web.1.t",
        spec=ContainerSpec(image="i"),
        hostname="h",
        namespace=None,
    )
    return Container(
        config=config,
        image="i",
        args=(),
        state=ContainerState.EXITED,
        started_at=1,
        exit_code=exit_code,
        error=error,
    )


@pytest.mark.parametrize(
    ("container", "state", "message", "err"),
    [
        (container(), TaskState.COMPLETE, "finished", ""),
        (container(exit_code=3), TaskState.FAILED, "", "task: non-zero exit (3)"),
        (
            container(exit_code=127, error="no such file"),
            TaskState.FAILED,
            "",
            "task: non-zero exit (127): no such file",
        ),
        (None, TaskState.FAILED, "", "task: container is gone"),
    ],
)
def test_outcomes(container: Container | None, state: TaskState, message: str, err: str) -> None:
    assert outcome(running(container=ContainerState.EXITED), container) == (state, message, err)
    assert outcome(running(desired=TaskState.SHUTDOWN), container) == (
        TaskState.SHUTDOWN,
        "shutdown",
        "",
    )


@pytest.mark.parametrize("desired", [TaskState.RUNNING, TaskState.SHUTDOWN, TaskState.REMOVE])
def test_an_unhealthy_task_has_failed_whatever_its_exit_code_and_the_managers_wish(
    desired: TaskState,
) -> None:
    view = running(container=ContainerState.EXITED, unhealthy="sick", desired=desired)
    assert outcome(view, container()) == (TaskState.FAILED, "", "sick")
    exited = outcome(view, container(exit_code=137))
    assert exited == (TaskState.FAILED, "", "task: non-zero exit (137): sick")
    assert outcome(view, None) == (TaskState.FAILED, "", "sick")


def test_failure_before_starting_is_a_rejection() -> None:
    assert failed_before(TaskState.READY) == TaskState.REJECTED
    assert failed_before(TaskState.STARTING) == TaskState.FAILED


def test_the_oldest_of_a_slot_go_first() -> None:
    ended = {ContainerId(f"c{i}"): (f"web.1.t{i}", i) for i in range(7)} | {
        ContainerId("d"): ("web.2.x", 0),
        ContainerId("e"): ("web.node.y", 0),
    }
    assert sorted(expired(ended)) == ["c0", "c1"]
    assert expired({}) == []
