"""Jobs in whole swarms, in virtual time: a leader that is lost in the middle of one, with the tasks
that its host ran."""

import asyncio
import tempfile
from pathlib import Path

import msgspec

from tests.sim.test_cluster import leader
from tests.simulation.cluster import SimCluster
from tests.support import virtual_time
from weft.control.orchestrator.progress import Progress, progress
from weft.model.ids import ServiceId
from weft.model.service import ContainerSpec, Job, ServiceSpec, TaskSpec
from weft.model.task import TaskState

SPEC = ServiceSpec(
    name="job", replicas=6, job=Job(2), task=TaskSpec(container=ContainerSpec(image="demo"))
)


def counted(cluster: SimCluster, id: ServiceId) -> Progress:
    return progress(cluster.state, cluster.state.services[id])


async def complete_one(cluster: SimCluster, id: ServiceId) -> None:
    """One container, wherever one runs, ends with success, and the managers hear of it."""
    before = counted(cluster, id).completed
    await cluster.until(lambda: bool(cluster.running()), 120)
    name, container = cluster.running()[0]
    cluster.hosts[name].runtime.die(container.id, 0)
    await cluster.until(lambda: counted(cluster, id).completed > before, 120)


def test_a_job_goes_on_under_another_leader_and_nothing_completes_twice() -> None:
    async def scene(cluster: SimCluster) -> None:
        id = await cluster.ask(lambda manager: manager.swarm.create_service(SPEC))
        for _ in range(2):
            await complete_one(cluster, id)
        lost = leader(cluster)
        await cluster.power_off(lost)
        await cluster.until(lambda: leader(cluster), 30)
        assert leader(cluster) != lost
        completed = {t.id for t in cluster.state.tasks_in(TaskState.COMPLETE).values()}
        while counted(cluster, id).completed < 6:
            await complete_one(cluster, id)
            assert len(cluster.running()) <= 2
        cluster.power_on(lost)
        await asyncio.sleep(120)
        assert cluster.running() == []
        assert counted(cluster, id) == Progress(running=0, desired=2, completed=6)
        ended = list(cluster.state.tasks_in(TaskState.COMPLETE).values())
        assert sorted(task.slot for task in ended) == [1, 2, 3, 4, 5, 6]
        assert completed <= {task.id for task in ended}

        service = cluster.state.services[id]
        again = msgspec.structs.replace(service.spec, replicas=1)
        await cluster.ask(
            lambda manager: manager.swarm.update_service(id, service.meta.version, again)
        )
        await complete_one(cluster, id)
        await asyncio.sleep(60)
        assert counted(cluster, id) == Progress(running=0, desired=2, completed=1)

    async def play() -> None:
        with tempfile.TemporaryDirectory() as directory:
            async with SimCluster.of(Path(directory), managers=3, workers=2) as cluster:
                await scene(cluster)
                cluster.check()

    virtual_time.run(play())
