"""A reader that is slower than what it reads: neither a loud node nor a loud container keeps the
lines of the others from it. In virtual time."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.simulation.cluster import SimCluster
from tests.support import virtual_time
from weft.agent.logs import UNSENT
from weft.manager.subscription import UNREAD
from weft.model.ids import TaskId
from weft.model.logs import LogsWanted, TaskLog
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec
from weft.model.task import TaskState

LINE = 999
BUFFERS = (UNREAD + 5 * UNSENT) // LINE
"""Lines that may be on their way before the others say anything: in the broker's queue, in the
publisher's, and in two messages between them and one in the hands of each."""


def say(cluster: SimCluster, task: TaskId, count: int, character: str) -> None:
    for host in cluster.hosts.values():
        for container in host.runtime.containers():
            if container.config.labels["com.docker.swarm.task.id"] == task:
                for _ in range(count):
                    host.runtime.say(container.id, character * LINE + "\n")


@pytest.mark.parametrize("workers", [1, 0], ids=["of another node", "of the same node"])
def test_a_loud_container_leaves_room_for_the_lines_of_others(tmp_path: Path, workers: int) -> None:
    async def scene(cluster: SimCluster) -> None:
        spec = ServiceSpec(
            name="web", replicas=2, task=TaskSpec(container=ContainerSpec(image="demo"))
        )
        id = await cluster.ask(lambda manager: manager.swarm.create_service(spec))
        await cluster.settle(60)
        tasks = cluster.state.tasks_of(id)
        assert [task.state for task in tasks.values()] == [TaskState.RUNNING] * 2
        assert len({task.node for task in tasks.values()}) == 1 + workers
        loud, quiet = tasks
        say(cluster, loud, 5000, "!")
        manager = cluster.hosts["node1"].manager
        assert manager is not None
        async with aclosing(manager.swarm.logs(LogsWanted(service=id, follow=True))) as logs:
            before = len(await anext(logs))
            await asyncio.sleep(10)
            say(cluster, quiet, 100, ".")
            seen: list[TaskLog] = []
            while sum(log.task == quiet for log in seen) < 100:
                seen += await anext(logs)
                await asyncio.sleep(1)
        shouted = sum(log.task == loud for log in seen)
        assert before + shouted < 5000, "or the loud one was only done"
        assert shouted < BUFFERS + 2 * 100

    async def main() -> None:
        async with SimCluster.of(tmp_path, 1, workers) as cluster:
            await scene(cluster)
            cluster.check()

    virtual_time.run(main())
