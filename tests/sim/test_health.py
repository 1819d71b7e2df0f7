"""Health checks on virtual time: the engine's probes, and tasks that wait for their health."""

import asyncio
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.agent_rig import Rig, rig, simulated
from weft.engine import health as health_module
from weft.model.health import Health, HealthCheck, HealthStatus
from weft.model.ids import ContainerId
from weft.model.meta import SECOND
from weft.model.task import TaskState
from weft.runtime.base import Attached, Exec
from weft.runtime.fake_exec import FakeExec, Outcome

CHECK = HealthCheck(test=("CMD", "look"), interval=SECOND, timeout=2 * SECOND, retries=2)
GOOD, BAD = Outcome(output=b"fine\n"), Outcome(exit_code=1, output=b"no\nanswer\n")


def checked(r: Rig, check: HealthCheck = CHECK, tasks: int = 1) -> None:
    """Tasks with a health check, in place of the rig's own."""
    for task in r.tasks:
        r.swarm.remove(task)
    r.tasks = r.swarm.service("checked", r.net, on=[1] * tasks)
    for task in r.tasks:
        spec = r.swarm.tasks[task].spec
        container = msgspec.structs.replace(spec.container, healthcheck=check)
        spec = msgspec.structs.replace(spec, container=container)
        r.swarm.tasks[task] = msgspec.structs.replace(r.swarm.tasks[task], spec=spec)


def health(r: Rig, number: int = 0) -> Health | None:
    return r.agent.engine.health.of(r.runtime.containers()[number])


def known(r: Rig) -> Health:
    found = health(r)
    assert found is not None
    return found


def actions(r: Rig) -> list[str]:
    return [event.action for event in r.agent.engine.events.past]


@simulated
async def test_a_task_runs_once_it_is_healthy(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=0) as r:
        checked(r)
        r.runtime.outcomes = lambda id, argv: BAD
        await r.manager.tell()
        await r.until_all(TaskState.STARTING, 1)
        await r.until(lambda: len(r.runtime.commands) == 1)
        r.runtime.outcomes = lambda id, argv: GOOD
        await r.until_all(TaskState.RUNNING, 3)
        assert [str(s.state.name) for _, s in r.manager.log][-2:] == ["STARTING", "RUNNING"]
        assert known(r).status is HealthStatus.HEALTHY
        assert [result.output for result in known(r).log] == ["no\nanswer\n", "fine\n"]
        assert r.runtime.commands[0].argv == ("look",)
        await asyncio.sleep(0)
        assert actions(r)[-4:] == [
            "exec_create: look ", "exec_start: look ", "exec_die", "health_status: healthy",
        ]  # fmt: skip


@simulated
async def test_an_unhealthy_task_serves_no_more_then_stops_and_fails(tmp_path: Path) -> None:
    """Whether it has been healthy before or not."""
    for was_healthy in (True, False):
        async with rig(tmp_path / str(was_healthy), tasks=0) as r:
            checked(r)
            r.runtime.stop_latency = 3.0
            r.runtime.outcomes = lambda id, argv, good=was_healthy: GOOD if good else BAD
            await r.manager.tell()
            state = TaskState.RUNNING if was_healthy else TaskState.STARTING
            await r.until_all(state, 5)
            r.runtime.outcomes = lambda id, argv: BAD
            await r.until(lambda: r.manager.statuses[r.tasks[0]].unhealthy_since > 0, 9)
            reported = r.manager.statuses[r.tasks[0]]
            assert reported.state == state
            assert reported.err == "dockerexec: unhealthy container: no answer"
            assert len(r.runtime.running()) == 1, "the manager hears of it before the stop"
            assert r.agent.connections.sandboxes
            await r.until_all(TaskState.FAILED)
            failed = r.manager.statuses[r.tasks[0]]
            assert failed.err == "dockerexec: unhealthy container: no answer"
            assert failed.unhealthy_since == reported.unhealthy_since
            assert failed.timestamp >= failed.unhealthy_since + 3 * SECOND
            await r.check_gone()
            assert known(r).status is HealthStatus.UNHEALTHY
            probes = len(r.runtime.commands)
            await asyncio.sleep(60)
            assert len(r.runtime.commands) == probes


@pytest.mark.parametrize(("told", "shortest", "longest"), [(True, 0.2, 1.0), (False, 2.2, 2.6)])
def test_an_unhealthy_container_is_stopped_once_nobody_is_sent_to_it(
    tmp_path: Path, told: bool, shortest: float, longest: float
) -> None:
    """Or, if no manager says so, after a moment."""

    @simulated
    async def body(tmp_path: Path) -> None:
        async with rig(tmp_path, tasks=0) as r:
            checked(r)
            r.runtime.outcomes = lambda id, argv: GOOD
            await r.manager.tell()
            await r.until_all(TaskState.RUNNING, 5)
            r.runtime.outcomes = lambda id, argv: BAD
            await r.until(lambda: r.manager.statuses[r.tasks[0]].unhealthy_since > 0, 9)
            began = asyncio.get_running_loop().time()
            if told:
                r.swarm.set_serving(r.tasks[0], False)
                await r.manager.tell()
            await r.until(lambda: r.happened("stop"))
            assert shortest <= asyncio.get_running_loop().time() - began <= longest

    body(tmp_path)


@simulated
async def test_a_killed_unhealthy_container_gives_its_exit_code(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=0) as r:
        checked(r)
        r.runtime.stop_latency = 100.0
        r.runtime.outcomes = lambda id, argv: Outcome(exit_code=1)
        await r.manager.tell()
        await r.until_all(TaskState.FAILED, 60)
        error = "task: non-zero exit (137): dockerexec: unhealthy container"
        assert r.manager.statuses[r.tasks[0]].err == error


@simulated
async def test_a_daemon_that_is_killed_while_it_stops_an_unhealthy_task_goes_on(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, tasks=0) as r:
        checked(r)
        r.runtime.stop_latency = 100.0
        r.runtime.outcomes = lambda id, argv: GOOD
        await r.manager.tell()
        await r.until_all(TaskState.RUNNING)
        r.runtime.outcomes = lambda id, argv: BAD
        await r.until(lambda: r.manager.statuses[r.tasks[0]].unhealthy_since > 0)
        await asyncio.sleep(1)
        await r.kill()
        r.runtime.outcomes = lambda id, argv: GOOD
        r.start()
        await r.until_all(TaskState.FAILED)
        assert "unhealthy container: no answer" in r.manager.statuses[r.tasks[0]].err


@simulated
async def test_a_restart_of_the_daemon_keeps_tasks_running_and_waits_for_starting_ones(
    tmp_path: Path,
) -> None:
    """Health begins anew as `starting`; names are answered for both kinds of tasks."""
    async with rig(tmp_path, tasks=0) as r:
        checked(r, msgspec.structs.replace(CHECK, retries=100), tasks=2)
        await r.manager.tell()
        good = set()
        r.runtime.outcomes = lambda id, argv: GOOD if id in good else BAD
        await r.until(lambda: len(r.runtime.running()) == 2)
        good.add(r.runtime.running()[0].id)
        await r.until(lambda: TaskState.RUNNING in r.states().values())
        before, opened = dict(r.states()), len(r.opened)
        assert sorted(before.values()) == [TaskState.STARTING, TaskState.RUNNING]
        await r.kill()
        r.start()
        found = [health(r, n) for n in (0, 1)]
        assert [each and Health(log=each.log) for each in found] == found
        await r.until(lambda: len(r.opened) == opened + 2)
        await asyncio.sleep(10)
        assert r.states() == before
        good |= {c.id for c in r.runtime.running()}
        await r.until_all(TaskState.RUNNING)
        assert set(r.happened("start").values()) == {1}


@simulated
async def test_a_task_that_is_shut_down_before_it_is_healthy_is_shut_down(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=0) as r:
        checked(r)
        r.runtime.outcomes = lambda id, argv: Outcome(seconds=math.inf)
        await r.manager.tell()
        await r.until(lambda: len(r.runtime.commands) == 1)
        await r.manager.want_all(TaskState.SHUTDOWN)
        await r.until_all(TaskState.SHUTDOWN)
        await asyncio.sleep(0.1)
        assert not r.runtime.commands[0].running, "the probe ends with the container"
        assert known(r).status is HealthStatus.UNHEALTHY


@simulated
async def test_a_container_that_ends_before_it_is_healthy_fails_as_any_other(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, tasks=0) as r:
        checked(r)
        r.runtime.outcomes = lambda id, argv: BAD
        await r.manager.tell()
        await r.until(lambda: len(r.runtime.commands) == 1)
        r.runtime.die(r.runtime.running()[0].id, 3)
        await r.until_all(TaskState.FAILED)
        assert r.manager.statuses[r.tasks[0]].err == "task: non-zero exit (3)"


@simulated
async def test_a_paused_container_is_not_probed(tmp_path: Path) -> None:
    """Whether it is paused between two probes or during one, which then cannot end in time."""
    async with rig(tmp_path, tasks=0) as r:
        checked(r)
        r.runtime.outcomes = lambda id, argv: GOOD
        await r.manager.tell()
        await r.until_all(TaskState.RUNNING)
        id = r.runtime.running()[0].id
        for during in (False, True):
            count = len(r.runtime.commands) + during
            r.runtime.outcomes = lambda id, argv: Outcome(seconds=math.inf)
            await r.until(lambda n=count: len(r.runtime.commands) == n)
            await r.runtime.pause(id)
            r.runtime.outcomes = lambda id, argv: BAD
            await asyncio.sleep(60)
            assert len(r.runtime.commands) == count
            r.runtime.outcomes = lambda id, argv: GOOD
            await r.runtime.unpause(id)
            await r.until(lambda n=count: len(r.runtime.commands) > n + 1)
            assert known(r).status is HealthStatus.HEALTHY
            assert not known(r).failing_streak
            assert set(r.states().values()) == {TaskState.RUNNING}


@pytest.mark.parametrize(
    ("outcome", "code", "output"),
    [
        (Outcome(seconds=math.inf, output=b"wait"), -1, "Health check exceeded timeout (2s): wait"),
        (Outcome(seconds=2.5), -1, "Health check exceeded timeout (2s)"),
        (Outcome(refused="no space left on device"), -1, "no space left on device"),
        (Outcome(exit_code=7, output=b"x" * 5000), 7, "x" * 4096 + "..."),
        (Outcome(output=b"\xff" * 3), 0, "\ufffd" * 3),
    ],
)
def test_what_a_probe_comes_to(tmp_path: Path, outcome: Outcome, code: int, output: str) -> None:
    @simulated
    async def body(tmp_path: Path) -> None:
        async with rig(tmp_path, tasks=0) as r:
            checked(r)
            r.runtime.outcomes = lambda id, argv: outcome
            await r.manager.tell()
            await r.until(lambda: r.runtime.containers() and (found := health(r)) and found.log)
            first = known(r).log[0]
            assert (first.exit_code, first.output) == (code, output)
            assert not any(command.running for command in r.runtime.commands)

    body(tmp_path)


@simulated
async def test_the_next_daemon_shows_the_last_results(tmp_path: Path) -> None:
    """Status and streak begin anew, as in Docker; of a container that has ended they are shown as
    they were."""
    async with rig(tmp_path, tasks=0) as r:
        checked(r, msgspec.structs.replace(CHECK, interval=10 * SECOND))
        r.runtime.outcomes = lambda id, argv: GOOD
        await r.manager.tell()
        await r.until_all(TaskState.RUNNING)
        r.runtime.outcomes = lambda id, argv: BAD
        await r.until(lambda: known(r).failing_streak == 1)
        before = known(r)
        await r.kill()
        r.start()
        assert known(r) == Health(log=before.log)
        await r.until(lambda: len(known(r).log) == 3)
        assert known(r).log[:2] == before.log
        assert known(r).failing_streak == 1

        await r.stop()
        [container] = r.runtime.containers()
        r.runtime.die(container.id, 1)
        last = msgspec.structs.replace(known(r), status=HealthStatus.UNHEALTHY)
        r.start()
        assert known(r) == last
        assert [path.name for path in (tmp_path / "health").iterdir()] == [container.id]
        await r.agent.engine.remove(container.id)
        assert not list((tmp_path / "health").iterdir())


@simulated
async def test_a_check_that_cannot_be_run_at_all_has_failed(tmp_path: Path) -> None:
    """The runtime refuses commands."""
    async with rig(tmp_path, tasks=0) as r:
        checked(r)
        await r.manager.tell()
        await r.until_all(TaskState.FAILED)
        assert "nothing runs in it" in r.manager.statuses[r.tasks[0]].err


@simulated
async def test_a_start_that_hangs_has_failed(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=0) as r:
        checked(r)

        async def hang(id: ContainerId, argv: tuple[str, ...], **options: Any) -> Exec:
            command = await type(r.runtime).exec(r.runtime, id, argv, **options)
            started = command.start

            async def never() -> Attached:
                await asyncio.Event().wait()
                return await started()

            command.start = never  # type: ignore[method-assign]  # the fault
            return command

        r.runtime.outcomes = lambda id, argv: GOOD
        r.runtime.exec = hang  # type: ignore[method-assign]  # the fault
        await r.manager.tell()
        await r.until(lambda: r.runtime.containers() and (found := health(r)) and found.log, 60)
        assert known(r).log[0].output.startswith("timed out starting health check for container")


@simulated
async def test_no_more_commands_start_at_once_than_there_are_slots(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=0) as r:
        checked(r, tasks=20)
        starting, most, begun = 0, 0, 0

        async def slow(id: ContainerId, argv: tuple[str, ...], **options: Any) -> Exec:
            command = await type(r.runtime).exec(r.runtime, id, argv, **options)
            start = command.start

            async def begin() -> Attached:
                nonlocal starting, most, begun
                begun += 1
                starting += 1
                most = max(most, starting)
                await asyncio.sleep(0.5)
                starting -= 1
                return await start()

            command.start = begin  # type: ignore[method-assign]  # counts
            return command

        r.runtime.outcomes = lambda id, argv: GOOD
        r.runtime.exec = slow  # type: ignore[method-assign]  # counts
        r.agent.engine.health._slots = asyncio.Semaphore(2)
        await r.manager.tell()
        began = asyncio.get_running_loop().time()
        await r.until_all(TaskState.RUNNING, 60)
        assert most == 2
        # 20 starts of half a second, two at a time, and no rest: tasks wait to be healthy.
        assert 5 < asyncio.get_running_loop().time() - began < 7
        begun = 0
        await asyncio.sleep(60)
        # From then on as much rest as work.
        assert 100 < begun <= 122


@simulated
async def test_without_a_check_there_is_no_health(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=0) as r:
        checked(r, HealthCheck(test=("NONE",)), tasks=2)
        r.runtime.outcomes = lambda id, argv: GOOD
        await r.manager.tell()
        await r.until_all(TaskState.RUNNING)
        await asyncio.sleep(60)
        assert (r.runtime.commands, health(r)) == ([], None)
        r.runtime.die(r.runtime.running()[0].id)
        await r.until(lambda: TaskState.COMPLETE in r.states().values())
        assert [health(r, n) for n in (0, 1)] == [None, None]


@simulated
async def test_a_flood_of_output_is_read_slowly_and_not_kept(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=0) as r:
        checked(r)
        reads = 0

        async def flood(id: ContainerId, argv: tuple[str, ...], **options: Any) -> Exec:
            command = await type(r.runtime).exec(r.runtime, id, argv, **options)

            async def read() -> tuple[int, bytes]:
                nonlocal reads
                reads += 1
                return 1, b"y\n" * 32768

            assert isinstance(command, FakeExec)
            command.read = read  # type: ignore[method-assign]  # the fault
            return command

        r.runtime.outcomes = lambda id, argv: GOOD
        r.runtime.exec = flood  # type: ignore[method-assign]  # the fault
        await r.manager.tell()
        await r.until(lambda: r.runtime.containers() and (found := health(r)) and found.log)
        assert len(known(r).log[0].output) < 4200
        assert reads <= 2.1 / health_module.FLOOD_PAUSE
