"""Logs of services in whole swarms: from any manager, of all nodes, whatever happens meanwhile. In
virtual time, and at the end over real TLS on loopback."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.simulation.cluster import SimCluster
from tests.simulation.host import SimHost
from tests.support import virtual_time
from tests.support.members import Host, until
from weft.errors import Unavailable
from weft.manager.manager import Manager
from weft.model.container import ContainerState, LogLine
from weft.model.ids import ContainerId, ServiceId, TaskId
from weft.model.logs import LogsWanted, TaskLog
from weft.model.meta import SECOND
from weft.model.service import ContainerSpec, Placement, ServiceSpec, TaskSpec
from weft.model.task import TaskState
from weft.runtime.fake import FakeRuntime


def play(
    directory: Path,
    managers: int,
    workers: int,
    scene: Callable[[SimCluster], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> None:
        async with SimCluster.of(directory, managers, workers) as cluster:
            await scene(cluster)
            cluster.check()

    virtual_time.run(main())


async def service(cluster: SimCluster, replicas: int, name: str = "web") -> ServiceId:
    """Each of its tasks has said two lines."""
    spec = ServiceSpec(
        name=name, replicas=replicas, task=TaskSpec(container=ContainerSpec(image="demo"))
    )
    id = await cluster.ask(lambda manager: manager.swarm.create_service(spec))
    await cluster.settle(60)
    for task in cluster.state.tasks_of(id):
        say(cluster, task, "out\n")
        say(cluster, task, "err\n", 2)
    return id


def place(cluster: SimCluster, task: TaskId) -> tuple[SimHost, ContainerId]:
    found = [
        (host, container.id)
        for host in cluster.hosts.values()
        for container in host.runtime.containers()
        if container.config.labels["com.docker.swarm.task.id"] == task
    ]
    return found[0]


def say(cluster: SimCluster, task: TaskId, text: str, stream: int = 1) -> None:
    host, container = place(cluster, task)
    host.runtime.say(container, text, stream)


def manager_of(cluster: SimCluster, name: str) -> Manager:
    manager = cluster.hosts[name].manager
    assert manager is not None
    return manager


def told(logs: list[TaskLog]) -> list[tuple[TaskId, int, str]]:
    return sorted((log.task, log.line.stream, log.line.data.decode()) for log in logs)


async def read(manager: Manager, wanted: LogsWanted) -> list[TaskLog]:
    async with aclosing(manager.swarm.logs(wanted)) as logs:
        return [log async for lines in logs for log in lines]


class Follower:
    """Reads on in the background."""

    def __init__(self, manager: Manager, wanted: LogsWanted) -> None:
        self.lines: list[TaskLog] = []
        self.error = ""
        self._logs = manager.swarm.logs(wanted)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with aclosing(self._logs):
            try:
                async for lines in self._logs:
                    self.lines += lines
            except Unavailable as error:
                self.error = str(error)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait((self.task,))


@pytest.mark.parametrize("managers", [1, 3])
def test_any_manager_shows_the_lines_of_all_nodes(tmp_path: Path, managers: int) -> None:
    async def scene(cluster: SimCluster) -> None:
        other = await service(cluster, 2, "other")
        id = await service(cluster, 8)
        tasks = cluster.state.tasks_of(id)
        nodes = cluster.state.nodes
        assert len({task.node for task in tasks.values()}) == managers + 2
        holders = {
            nodes[task.node].status.manager for task in tasks.values() if task.node is not None
        }
        for host in cluster.managers:
            if managers > 1:
                assert holders - {host.node}, "all sessions are with the manager that is asked"
            logs = await read(manager_of(cluster, host.name), LogsWanted(service=id))
            assert told(logs) == sorted(
                (task, *line) for task in tasks for line in ((1, "out\n"), (2, "err\n"))
            )
            assert all((log.node, log.service) == (tasks[log.task].node, id) for log in logs)
            for task in tasks:
                logs = await read(
                    manager_of(cluster, host.name), LogsWanted(task=task, stdout=False)
                )
                assert told(logs) == [(task, 2, "err\n")]
        assert (
            len(
                await read(
                    manager_of(cluster, cluster.managers[0].name), LogsWanted(service=other, tail=1)
                )
            )
            == 2
        )

    play(tmp_path, managers, 2, scene)


def test_what_is_followed_is_followed_to_tasks_that_come_later_and_to_the_service_s_end(
    tmp_path: Path,
) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, 1)
        (first,) = cluster.state.tasks_of(id)
        follower = Follower(
            manager_of(cluster, "node2"), LogsWanted(service=id, follow=True, tail=1)
        )
        await cluster.until(lambda: told(follower.lines) == [(first, 2, "err\n")], 10)
        current = cluster.state.services[id]
        grown = ServiceSpec(name="web", replicas=6, task=current.spec.task)
        await cluster.ask(
            lambda manager: manager.swarm.update_service(id, current.meta.version, grown)
        )
        await cluster.settle(30)
        for task in cluster.state.tasks_of(id):
            say(cluster, task, "one")
            say(cluster, task, "and another\n", 2)
            say(cluster, task, " line\n")
        expected = [
            (t, *line)
            for t in cluster.state.tasks_of(id)
            for line in ((1, "one line\n"), (2, "and another\n"))
        ]
        await cluster.until(
            lambda: told(follower.lines) == sorted([(first, 2, "err\n"), *expected]), 10
        )
        await cluster.ask(lambda manager: manager.swarm.remove_service(id))
        await cluster.until(follower.task.done, 60)
        assert follower.error == ""

    play(tmp_path, 3, 2, scene)


def test_a_node_that_is_down_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, 6)
        lost = cluster.hosts["node5"]
        there = [t for t in cluster.state.tasks_of(id).values() if t.node == lost.node]
        here = [t for t in cluster.state.tasks_of(id).values() if t.node != lost.node]
        assert there
        assert here
        await cluster.power_off("node5")
        await cluster.until(
            lambda: lost.node and str(cluster.state.nodes[lost.node].status.state) == "down", 60
        )
        seen: list[TaskLog] = []
        with pytest.raises(Unavailable) as missing:
            async with aclosing(
                manager_of(cluster, "node1").swarm.logs(LogsWanted(service=id, stderr=False))
            ) as logs:
                async for lines in logs:
                    seen += lines
        assert (
            str(missing.value)
            == "warning: incomplete log stream. some logs could not be retrieved for the following"
            f" reasons: node {lost.node} is not available"
        )
        assert told(seen) == sorted((task.id, 1, "out\n") for task in here)

    play(tmp_path, 3, 2, scene)


def test_a_node_that_falls_silent_in_the_middle_is_named(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, 3)
        for task in cluster.state.tasks_of(id):
            for _ in range(400):
                say(cluster, task, "x" * 9999 + "\n")
        lost = cluster.hosts["node3"]
        seen: list[TaskLog] = []
        with pytest.raises(
            Unavailable,
            match=f"for the following reasons: node {lost.node} disconnected unexpectedly",
        ):
            async with (
                asyncio.timeout(300),
                aclosing(manager_of(cluster, "node1").swarm.logs(LogsWanted(service=id))) as logs,
            ):
                while not any(log.node == lost.node for log in seen):
                    seen += await anext(logs)
                cluster.isolate(lost.name)
                async for lines in logs:
                    seen += lines
        assert [
            sum(log.node == host.node for log in seen) < 402 for host in cluster.hosts.values()
        ] == [False, False, True]
        cluster.heal(lost.name)

    play(tmp_path, 1, 2, scene)


def test_a_task_that_has_no_node_is_named(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        nowhere = Placement(constraints=("node.hostname==nowhere",))
        placed = TaskSpec(container=ContainerSpec(image="demo"), placement=nowhere)
        id = await cluster.ask(
            lambda m: m.swarm.create_service(ServiceSpec(name="stuck", replicas=1, task=placed))
        )
        await cluster.until(lambda: cluster.state.tasks_of(id), 10)
        (task,) = cluster.state.tasks_of(id)
        assert await read(manager_of(cluster, "node1"), LogsWanted(service=id)) == []
        with pytest.raises(
            Unavailable, match=f"for the following reasons: task {task} has not been scheduled"
        ):
            await read(manager_of(cluster, "node1"), LogsWanted(task=task))

    play(tmp_path, 1, 1, scene)


def test_a_follower_goes_on_after_the_last_line_when_a_daemon_comes_back(tmp_path: Path) -> None:
    """No line twice, none missing, though many have one time stamp."""

    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, 4)
        ended = cluster.hosts["node4"]
        task = next(t.id for t in cluster.state.tasks_of(id).values() if t.node == ended.node)
        follower = Follower(
            manager_of(cluster, "node1"), LogsWanted(task=task, follow=True, stderr=False)
        )
        say(cluster, task, "before\n")
        await cluster.until(
            lambda: told(follower.lines) == [(task, 1, "before\n"), (task, 1, "out\n")], 10
        )
        await ended.kill()
        say(cluster, task, "without a daemon\n")
        await asyncio.sleep(2)
        ended.start()
        await asyncio.sleep(10)
        say(cluster, task, "after\n")
        await cluster.until(lambda: len(follower.lines) >= 4, 10)
        await asyncio.sleep(5)
        assert [log.line.data for log in follower.lines] == [
            b"out\n",
            b"before\n",
            b"without a daemon\n",
            b"after\n",
        ]
        await follower.close()

    play(tmp_path, 1, 3, scene)


def test_a_follower_does_not_notice_that_agents_change_their_manager(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, 5)
        asked, lost = "node1", "node2"
        follower = Follower(manager_of(cluster, asked), LogsWanted(service=id, follow=True))
        await cluster.until(lambda: len(follower.lines) == 10, 10)
        opened = {name: len(host.published) for name, host in cluster.hosts.items()}
        gone = cluster.hosts[lost]
        await gone.kill()
        await asyncio.sleep(30)
        gone.start()
        await cluster.settle(60)
        for task in cluster.state.tasks_of(id):
            say(cluster, task, "on\n")
        await cluster.until(lambda: len(follower.lines) == 15, 10)
        for name, host in cluster.hosts.items():
            if name != lost:
                assert len(host.published) == opened[name], f"{name} was asked again"
        await follower.close()

    play(tmp_path, 3, 2, scene)


def test_who_does_not_read_stops_the_agents_and_nothing_else(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, 2)
        for task in cluster.state.tasks_of(id):
            for _ in range(400):
                say(cluster, task, "x" * 9999 + "\n")
        logs = manager_of(cluster, "node1").swarm.logs(LogsWanted(service=id))
        read = [*await anext(logs)]
        await asyncio.sleep(120)
        opened = [connection for host in cluster.hosts.values() for connection in host.published]
        assert len(opened) == 2
        assert sum(connection.sent for connection in opened) < 2_000_000, "of 8 million bytes"
        assert all(str(node.status.state) == "ready" for node in cluster.state.nodes.values())
        read += [log async for lines in logs for log in lines]
        assert len(read) == 2 * 402
        assert sum(connection.sent for connection in opened) > 8_000_000

    play(tmp_path, 1, 2, scene)


def test_what_is_no_longer_read_is_no_longer_published(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, 4)
        follower = Follower(manager_of(cluster, "node3"), LogsWanted(service=id, follow=True))
        await cluster.until(lambda: len(follower.lines) == 8, 10)
        await follower.close()
        opened = [connection for host in cluster.hosts.values() for connection in host.published]
        assert opened
        for connection in opened:
            async with asyncio.timeout(5):
                await connection.closed()

    play(tmp_path, 3, 2, scene)


def test_a_follower_ends_at_the_moment_that_was_named(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, 1)
        (task,) = cluster.state.tasks_of(id)
        until = virtual_time.clock() + 20 * SECOND
        follower = Follower(
            manager_of(cluster, "node1"),
            LogsWanted(service=id, follow=True, until=until, stderr=False),
        )
        await asyncio.sleep(10)
        say(cluster, task, "in time\n")
        await asyncio.sleep(15)
        assert follower.task.done()
        assert told(follower.lines) == [(task, 1, "in time\n"), (task, 1, "out\n")]

    play(tmp_path, 1, 1, scene)


def test_logs_of_tasks_that_have_ended(tmp_path: Path) -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await service(cluster, 1)
        (old,) = cluster.state.tasks_of(id)
        say(cluster, old, "last words")
        host, container = place(cluster, old)
        host.runtime.die(container, 1)
        await cluster.until(lambda: len(cluster.state.tasks_of(id)) == 2, 30)
        await cluster.settle(30)
        assert cluster.state.tasks[old].state == TaskState.FAILED
        logs = await read(manager_of(cluster, "node1"), LogsWanted(service=id))
        assert told(logs) == [(old, 1, "last words\n"), (old, 1, "out\n"), (old, 2, "err\n")]
        assert any(
            container.state == ContainerState.EXITED for container in host.runtime.containers()
        )
        await cluster.ask(lambda manager: manager.swarm.remove_service(id))
        await cluster.until(
            lambda: not any(each.runtime.containers() for each in cluster.hosts.values()), 30
        )

    play(tmp_path, 1, 1, scene)


# --- over TLS


async def member_swarm(directory: Path, workers: int) -> list[Host]:
    """The manager first."""
    hosts = [Host(directory, number, None) for number in range(31, 32 + workers)]
    await hosts[0].init()
    for host in hosts[1:]:
        await host.join(hosts[0].listen, (await hosts[0].manager.swarm.join_tokens()).worker)
    return hosts


async def everywhere(hosts: list[Host]) -> ServiceId:
    """A service with a task on each."""
    manager = hosts[0].manager
    task = TaskSpec(container=ContainerSpec(image="demo"), host_network=True)
    id = await manager.swarm.create_service(ServiceSpec(name="web", replicas=None, task=task))
    await until(
        lambda: (
            sum(
                task.state is TaskState.RUNNING
                for task in manager.swarm.state.tasks_of(id).values()
            )
            == len(hosts)
        )
    )
    return id


@pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_over_tls(tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        hosts = await member_swarm(tmp_path, 2)
        try:
            id = await everywhere(hosts)
            for host in hosts:
                for container in host.runtime.running():
                    host.runtime.say(container.id, "out\n")
            follower = Follower(hosts[0].manager, LogsWanted(service=id, follow=True))
            await until(lambda: len(follower.lines) == 3)
            logs = await read(hosts[0].manager, LogsWanted(service=id))
            assert told(logs) == sorted(
                (task, 1, "out\n") for task in hosts[0].manager.swarm.state.tasks_of(id)
            )
            await hosts[2].stop()
            await hosts[2].resume()
            for container in hosts[2].runtime.running():
                hosts[2].runtime.say(container.id, "on\n")
            await until(lambda: len(follower.lines) == 4)
            await follower.close()
        finally:
            for host in hosts:
                await host.stop()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())


class Talkative(FakeRuntime):
    """Its containers never stop saying something."""

    said = 0
    """Lines that were read."""

    async def logs(
        self,
        id: ContainerId,
        *,
        follow: bool = False,
        since: int = 0,
        until: int = 0,
        tail: int | None = None,
    ) -> AsyncGenerator[LogLine, None]:
        while True:
            self.said += 1
            yield LogLine(1, self.said, b"x" * 999 + b"\n")
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_over_tls_a_reader_that_stops_stops_the_agents(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The kernel's buffers fill, and then nobody reads a line more; sessions go on. When the reader
    goes on, so do they."""

    async def main() -> None:
        hosts = await member_swarm(tmp_path, 1)
        try:
            id = await everywhere(hosts)
            for host in hosts:
                assert host.runtime.running()
                host.runtime.__class__ = Talkative
            logs = hosts[0].manager.swarm.logs(LogsWanted(service=id, follow=True))
            await anext(logs)
            before, quiet = -1, 0
            while quiet < 20:
                await asyncio.sleep(0.05)
                now = sum(
                    host.runtime.said for host in hosts if isinstance(host.runtime, Talkative)
                )
                quiet = quiet + 1 if now == before else 0
                before = now
            assert before < 30_000, "of a thousand bytes each"
            assert all(host.up.agent.uplink.connected for host in hosts)
            count = 0
            while count < 2 * before:
                count += len(await anext(logs))
            await logs.aclose()
        finally:
            for host in hosts:
                await host.stop()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
