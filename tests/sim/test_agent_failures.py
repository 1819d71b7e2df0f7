"""Failures of parts of an agent, on virtual time: each is reported, and everything else goes on."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any, Never

import pytest

from tests.support import virtual_time
from tests.support.agent_rig import MANAGER, Rig, rig, simulated
from weft.errors import OperationFailed
from weft.linux.fake_echo import FakeEcho
from weft.model.addresses import Address, Port, Protocol
from weft.model.assignment import Assignment, AssignmentChange
from weft.model.ids import NodeId, TaskId
from weft.model.service import PublishedPort
from weft.model.task import TaskState
from weft.session.messages import Managers


@simulated
async def test_tasks_that_a_full_disk_cannot_keep_are_rejected_and_all_else_goes_on(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        write = r.agent.disk.keep

        def refuse(assignment: Assignment) -> Never:
            raise OperationFailed("cannot write assignment: No space left on device")

        def state(task: TaskId) -> TaskState:
            return r.manager.statuses[task].state if task in r.manager.statuses else TaskState.NEW

        r.agent.disk.keep = refuse  # type: ignore[method-assign]  # the fault
        [late] = r.swarm.service("late", r.net, on=[1])
        await r.manager.want(r.tasks[0], TaskState.SHUTDOWN)
        await r.until(lambda: state(late) == TaskState.REJECTED)
        assert "No space left" in r.manager.statuses[late].err
        await r.until(lambda: state(r.tasks[0]) > TaskState.RUNNING)
        assert all(state(task) == TaskState.RUNNING for task in r.tasks[1:])
        assert len(r.manager.hellos) == 1, "the session goes on"

        r.agent.disk.keep = write  # type: ignore[method-assign]  # the end of the fault
        r.swarm.remove(late)
        [later] = r.swarm.service("later", r.net, on=[1])
        await r.manager.tell()
        await r.until(lambda: state(later) == TaskState.RUNNING)


def fail_once(holder: object, name: str, error: Exception) -> list[str]:
    """The next call of the method raises; those after it do what they did. Gives whether it has."""
    method = getattr(holder, name)
    failed: list[str] = []

    def failing(*args: Any, **kwargs: Any) -> Any:
        if failed:
            return method(*args, **kwargs)
        failed.append(name)
        raise error

    setattr(holder, name, failing)
    return failed


@simulated
async def test_one_task_that_cannot_be_accepted_is_reported_and_holds_back_no_other(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        late = r.swarm.service("late", r.net, on=[1, 1])
        fail_once(r.agent, "_accept", KeyError("a mistake"))
        await r.manager.tell()
        await r.until(lambda: all(task in r.manager.statuses for task in late))
        await r.until(lambda: r.manager.statuses[late[1]].state == TaskState.RUNNING)
        status = r.manager.statuses[late[0]]
        assert (status.state, status.err) == (
            TaskState.REJECTED,
            "cannot accept task: internal error: KeyError('a mistake')",
        )
        assert len(r.manager.hellos) == 1, "the session goes on"


@simulated
async def test_an_assignment_that_cannot_be_applied_is_reported_and_asked_for_again(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        farewells: list[Any] = []
        apply = r.agent.uplink._apply

        def refuse(change: AssignmentChange) -> Never:
            farewells.append(r.manager.sessions[0].closing)
            raise KeyError("a mistake")

        r.agent.uplink._apply = refuse
        await r.manager.tell()
        await asyncio.sleep(30)
        assert 5 <= len(farewells) <= 10, "with pauses that grow"
        assert (
            farewells[0].reason
            == "cannot apply AssignmentUpdate: internal error: KeyError('a mistake')"
        )
        r.agent.uplink._apply = apply
        [late] = r.swarm.service("late", r.net, on=[1])
        await r.until(lambda: late in r.manager.statuses)
        await r.until(lambda: r.manager.statuses[late].state == TaskState.RUNNING)
        assert len(r.runtime.running()) == len(r.tasks) + 1
        assert set(r.happened("start").values()) == {1}


@simulated
async def test_a_word_of_a_manager_that_cannot_be_taken_over_ends_no_session(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path) as r:
        await r.until_all(TaskState.RUNNING)
        for _ in range(2):
            failed = fail_once(r.agent.uplink, "_hear", OperationFailed("No space left on device"))
            await r.manager.sessions[0].send(Managers(((NodeId("m2"), "192.0.2.9:2377"),)))
            await r.until(lambda failed=failed: failed)
        await asyncio.sleep(60)
        assert len(r.manager.hellos) == 1


@pytest.mark.parametrize("error", [KeyError("a mistake"), OSError(24, "Too many open files")])
@pytest.mark.parametrize("part", ["connect", "echo", "kernel", "stale flows", "worker"])
def test_no_part_of_the_agent_that_fails_ends_the_agent(
    tmp_path: Path, part: str, error: Exception
) -> None:
    async def scene() -> None:
        r = Rig(tmp_path)
        holder, name = {
            "connect": (r.manager, "connect"),
            "echo": (r, "open_echo"),
            "kernel": (r.kernel, "changed"),
            "stale flows": (r, "flush_flows"),
            "worker": (r.runtime, "get"),
        }[part]
        r.open_echo = lambda: FakeEcho(lambda address: address == MANAGER)
        failed = fail_once(holder, name, error)
        open_echo = r.open_echo
        r.open_echo = partial(open_echo)
        r.start()
        await r.until_all(TaskState.RUNNING)
        r.swarm.remove(r.tasks[0])
        await r.manager.tell()
        await r.until(lambda: len(r.runtime.running()) == len(r.tasks) - 1)
        await asyncio.sleep(60)
        assert failed
        assert not r.run.done()
        assert len(r.runtime.running()) == len(r.tasks) - 1
        await r.stop()

    virtual_time.run(scene())


@simulated
async def test_a_port_that_a_program_of_the_host_has_rejects_the_task(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data", tasks=0)
    asked: list[tuple[Protocol, Port]] = []

    def check(protocol: Protocol, port: Port, address: Address | None) -> Never:
        asked.append((protocol, port))
        raise OperationFailed(
            "failed to bind host port for 0.0.0.0:2222/tcp: address already in use"
        )

    made.check_port = check
    ports = [PublishedPort(9000, 2222, mode="host"), PublishedPort(9001, 2223)]
    made.tasks = made.swarm.service("taken", ports=ports, on=[1])
    made.start()
    try:
        await made.until_all(TaskState.REJECTED)
        status = made.manager.statuses[made.tasks[0]]
        assert status.err.startswith("failed to bind host port for 0.0.0.0:2222/tcp")
        assert asked == [("tcp", 2222)], "the mesh takes no port of the host"
        await made.check_gone()
    finally:
        await made.stop()
