"""Goodbyes: whatever ends a task, its connections end in good order. First no node sends new
connections to it, then it is stopped, and until it has ended the established ones are forwarded."""

import asyncio

from tests.support.manager_scene import Swarm, play, web
from weft.model.assignment import NetworkView, TaskAssignment
from weft.model.network import NetworkSpec
from weft.model.service import PublishedPort
from weft.model.task import TaskState
from weft.network.service_table import Published, service_table

WEB = Published("tcp", 8080)


class Lingering:
    """An agent's containers, which take their time to end."""

    def __init__(self) -> None:
        self.done = False

    def __call__(self, task: TaskAssignment) -> TaskState:
        if task.desired <= TaskState.RUNNING:
            return TaskState.RUNNING if task.desired == TaskState.RUNNING else TaskState.READY
        return TaskState.SHUTDOWN if self.done else TaskState.RUNNING


def test_a_removed_services_ports_are_forwarded_until_its_tasks_have_ended() -> None:
    linger = Lingering()

    async def scene(swarm: Swarm) -> None:
        slow = await swarm.join(linger)
        network = await swarm.manager.create_network(NetworkSpec(name="net"))
        ports = (PublishedPort(80, 8080),)
        service = await swarm.manager.create_service(web(2, (network.id,), ports))
        await swarm.until(lambda: len(swarm.running("web")) == 2)

        def view() -> NetworkView:
            ingress = swarm.manager.state.ingress
            assert ingress is not None
            return swarm.agents[0].assignment.networks[ingress.id]

        await swarm.until(lambda: len(view().backends(service)) == 2)
        await swarm.manager.remove_service(service)
        await swarm.until(lambda: not view().backends(service))
        await asyncio.sleep(60)
        assert len(swarm.manager.state.tasks) == 1, "the other task has ended"
        assert service_table(view()).published[WEB].backends == ()
        # Another service may have the port at once.
        next_one = await swarm.manager.create_service(web(1, (), ports, "next"))
        await swarm.until(lambda: view().backends(next_one))
        assert service_table(view()).published[WEB].id == next_one
        linger.done = True
        swarm.connect(slow)
        await swarm.until(lambda: service not in view().services)

    play(1, scene)
