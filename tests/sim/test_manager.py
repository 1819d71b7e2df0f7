"""A whole manager in memory, with agents that are a few queues away, in virtual time."""

import asyncio
import random
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import msgspec
import pytest

from tests.support.fake_agent import obedient
from tests.support.fake_authority import FakeAuthority
from tests.support.manager_scene import GRACE, Swarm, play, ports_of, web
from weft.errors import (
    OperationFailed,
)
from weft.manager.manager import Manager
from weft.model.assignment import TaskAssignment
from weft.model.ids import ServiceId, TaskId
from weft.model.meta import Meta
from weft.model.network import NetworkSpec
from weft.model.node import NodeState
from weft.model.service import (
    PublishedPort,
)
from weft.model.state import Put
from weft.model.task import TaskState
from weft.session.fake import session_pair
from weft.session.messages import (
    AssignmentUpdate,
    Heartbeat,
    Welcome,
)
from weft.store.sole import SoleLeader

# --- services from creation to the agents


def test_a_service_runs_on_all_nodes_and_each_knows_its_backends() -> None:
    async def scene(swarm: Swarm) -> None:
        network = await swarm.manager.swarm.create_network(NetworkSpec(name="demo"))
        await swarm.manager.swarm.create_service(web(6, (network.id,), (PublishedPort(80, 8080),)))
        await swarm.until(lambda: len(swarm.running("web")) == 6)
        await asyncio.sleep(1)
        service = swarm.manager.swarm.state.named("service", "web")
        assert service is not None
        for agent in swarm.agents:
            assert len(agent.assignment.tasks) == 2
            view = agent.assignment.networks[network.id]
            assert len(view.backends(ServiceId(service.id))) == 6
            assert {view.load_balancer(a.node) is not None for a in swarm.agents} == {True}
            assert [
                p.published
                for s in agent.assignment.networks.values()
                for r in s.services.values()
                for p in r.ports
            ] == [8080]

    play(3, scene)


def test_thirty_replicas_settle_in_tens_of_milliseconds() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.swarm.create_service(web(30))
        assert await swarm.until(lambda: len(swarm.running("web")) == 30) < 0.2

    play(3, scene)


def test_a_node_that_is_told_nothing_new_is_sent_nothing() -> None:
    async def scene(swarm: Swarm) -> None:
        a = await swarm.manager.swarm.create_network(NetworkSpec(name="a"))
        await swarm.manager.swarm.create_service(web(1, (a.id,)))
        await swarm.until(lambda: swarm.running("web"))
        await asyncio.sleep(1)
        on, off = sorted(swarm.agents, key=lambda agent: -len(agent.assignment.tasks))
        assert a.id in on.assignment.networks
        assert a.id not in off.assignment.networks
        received = len(off.changes)
        service = swarm.manager.swarm.state.named("service", "web")
        assert service is not None
        await swarm.manager.swarm.remove_service(ServiceId(service.id))
        await swarm.until(lambda: not on.assignment.tasks and a.id not in on.assignment.networks)
        assert len(off.changes) == received

    play(2, scene)


def test_a_session_that_begins_with_a_commit_begins_with_all_of_it() -> None:
    """The state is ahead of the events that the dispatcher has taken: what a newcomer is sent must
    not be made of both."""

    async def scene(swarm: Swarm) -> None:
        network = await swarm.manager.swarm.create_network(NetworkSpec(name="demo"))
        await swarm.manager.swarm.create_service(web(1, (network.id,)))
        await swarm.until(lambda: swarm.running("web"))
        await asyncio.sleep(1)
        await swarm.kill(0)
        [task] = swarm.running("web")
        [attachment] = task.attachments
        newer = msgspec.structs.replace(
            attachment, address=IPv4Interface(f"{attachment.address.ip + 50}/24")
        )
        second = msgspec.structs.replace(
            task, id=TaskId("second"), slot=2, attachments=(newer,), meta=Meta()
        )
        ours, theirs = session_pair(swarm.agents[0].identity, "10.59.72.12")
        await theirs.send(swarm.agents[0].hello)

        async def commit_and_serve() -> None:
            await swarm.store.commit([Put(second)])
            await swarm.manager.serve(ours)

        serving = asyncio.create_task(commit_and_serve())
        await theirs.receive()
        update = await theirs.receive()
        assert isinstance(update, AssignmentUpdate)
        assert second.id in {known.id for known in update.change.tasks}
        assert any(second.id in view.value.endpoints for view in update.change.views)
        await theirs.close("done")
        await asyncio.wait([serving])
        serving.exception()

    play(1, scene)


def test_an_agent_that_waits_for_its_first_assignment_is_answered_meanwhile() -> None:
    """A thousand come together when a manager has gone, and take their turns. One that hears
    nothing for long would go elsewhere."""

    async def scene(swarm: Swarm) -> None:
        await swarm.kill(0)
        turns = swarm.manager._dispatcher._turns = asyncio.Semaphore(0)
        ours, theirs = session_pair(swarm.agents[0].identity, "10.59.72.12")
        await theirs.send(swarm.agents[0].hello)
        serving = asyncio.create_task(swarm.manager.serve(ours))
        assert isinstance(await theirs.receive(), Welcome)
        for _ in range(10):
            await asyncio.sleep(2)
            await theirs.send(Heartbeat())
            assert isinstance(await theirs.receive(), Heartbeat)
        turns.release()
        assert isinstance(await theirs.receive(), AssignmentUpdate)
        await theirs.close("done")
        await asyncio.wait([serving])
        serving.exception()

    play(1, scene)


def test_the_tasks_of_a_dead_node_move_after_the_grace() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.swarm.create_service(web(4))
        await swarm.until(lambda: len(swarm.running("web")) == 4)
        dead = swarm.agents[0].node
        await swarm.kill(0)
        await asyncio.sleep(GRACE - 6)
        assert swarm.manager.swarm.state.nodes[dead].status.state is NodeState.READY
        await swarm.until(
            lambda: swarm.manager.swarm.state.nodes[dead].status.state is NodeState.DOWN, 10
        )
        await swarm.until(lambda: len([t for t in swarm.running("web") if t.node != dead]) == 4, 10)

    play(2, scene)


def test_a_node_that_comes_back_in_time_keeps_its_tasks() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.swarm.create_service(web(4))
        await swarm.until(lambda: len(swarm.running("web")) == 4)
        before = {task.id for task in swarm.running("web")}
        await swarm.kill(0)
        await asyncio.sleep(GRACE - 6)
        swarm.connect(swarm.agents[0])
        await asyncio.sleep(60)
        assert {task.id for task in swarm.running("web")} == before

    play(2, scene)


def test_a_node_that_was_down_is_ready_again_when_it_says_hello() -> None:
    async def scene(swarm: Swarm) -> None:
        node = swarm.agents[0].node
        await swarm.kill(0)
        await swarm.until(
            lambda: swarm.manager.swarm.state.nodes[node].status.state is NodeState.DOWN
        )
        swarm.connect(swarm.agents[0])
        await swarm.until(
            lambda: swarm.manager.swarm.state.nodes[node].status.state is NodeState.READY
        )
        await asyncio.sleep(60)
        assert swarm.manager.swarm.state.nodes[node].status.state is NodeState.READY

    play(1, scene)


def test_the_next_manager_goes_on_where_the_last_one_stopped() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.swarm.create_service(web(4))
        await swarm.until(lambda: len(swarm.running("web")) == 4)
        before = {task.id for task in swarm.running("web")}
        here, gone = (agent.node for agent in swarm.agents)
        await swarm.manager.close()
        await asyncio.sleep(300)
        own = next(
            node.id for node in swarm.store.state.nodes.values() if node.spec.role == "manager"
        )
        randbytes = random.Random(2).randbytes
        async with Manager(
            own, swarm.store, SoleLeader(own), ports_of(randbytes, FakeAuthority())
        ) as successor:
            await swarm.kill(0)
            await swarm.kill(1)
            swarm.agents[0].manager = successor
            swarm.connect(swarm.agents[0])
            await asyncio.sleep(2 * GRACE - 1)
            assert {task.id for task in swarm.running("web")} == before
            assert swarm.store.state.nodes[gone].status.state is NodeState.READY
            await asyncio.sleep(10)
            assert swarm.store.state.nodes[gone].status.state is NodeState.DOWN
            assert swarm.store.state.nodes[here].status.state is NodeState.READY
            assert {task.node for task in swarm.running("web") if task.id not in before} == {here}

    play(2, scene)


def test_a_task_that_fails_is_replaced_when_its_time_has_come() -> None:
    async def scene(swarm: Swarm) -> None:
        failed: list[TaskId] = []

        def fail_once(task: TaskAssignment) -> TaskState:
            if not failed:
                failed.append(task.id)
            return TaskState.FAILED if task.id in failed else obedient(task)

        await swarm.join(fail_once)
        await swarm.manager.swarm.create_service(web(1))
        await swarm.until(lambda: failed)
        await swarm.until(
            lambda: any(task.desired == TaskState.READY for task in swarm.tasks("web")), 1
        )
        assert 4 < await swarm.until(lambda: swarm.running("web")) < 6

    play(0, scene)


# --- when the store refuses


def test_a_manager_outlives_a_full_disk() -> None:
    async def scene(swarm: Swarm) -> None:
        swarm.store.full = True
        with pytest.raises(OperationFailed, match="disk is full"):
            await swarm.manager.swarm.create_service(web(2))
        swarm.store.full = False
        assert not swarm.manager.swarm.state.services
        await swarm.manager.swarm.create_service(web(2))
        await swarm.until(lambda: swarm.agents[0].assignment.tasks)
        swarm.store.full = True
        await asyncio.sleep(10)
        assert not swarm.running("web")
        swarm.store.full = False
        await swarm.until(lambda: len(swarm.running("web")) == 2)

    play(2, scene)


def test_what_is_put_into_the_store_by_hand_reaches_the_agents() -> None:
    async def scene(swarm: Swarm) -> None:
        agent = swarm.agents[0]
        ingress = swarm.manager.swarm.state.ingress
        assert ingress is not None
        changed = msgspec.structs.replace(
            ingress, spec=msgspec.structs.replace(ingress.spec, mtu=1300)
        )
        await swarm.store.commit([Put(changed)])
        await swarm.until(lambda: agent.assignment.networks[ingress.id].definition.mtu == 1300, 1)

    play(1, scene)


# --- what fails ends nobody else


def fail_once(holder: Any, name: str) -> list[str]:
    """The next call of the method raises; those after it do what they did. Gives whether it has."""
    method, failed = getattr(holder, name), list[str]()

    def failing(*args: Any, **kwargs: Any) -> Any:
        if failed:
            return method(*args, **kwargs)
        failed.append(name)
        raise KeyError("a mistake")

    setattr(holder, name, failing)
    return failed


@pytest.mark.parametrize(
    ("part", "method"),
    [
        ("_statuses", "_commit"), ("_membership", "_settle"), ("_dispatcher", "_gather"), ("_liveness", "reconcile"),
        ("_suspicion", "_look"),
    ],
)  # fmt: skip
def test_no_part_of_a_manager_that_fails_ends_the_manager(part: str, method: str) -> None:
    async def scene(swarm: Swarm) -> None:
        failed = fail_once(getattr(swarm.manager, part), method)
        await swarm.manager.swarm.create_service(web(4))
        await swarm.until(lambda: len(swarm.running("web")) == 4)
        await swarm.kill(0)
        swarm.connect(swarm.agents[0])
        node = swarm.manager.swarm.state.nodes[swarm.agents[1].node]
        promoted = msgspec.structs.replace(node.spec, role="manager")
        await swarm.store.commit([Put(msgspec.structs.replace(node, spec=promoted))])
        await asyncio.sleep(10)
        assert failed
        assert swarm.manager._running is not None
        assert not swarm.manager._running.done()
        await swarm.manager.swarm.create_service(web(4, name="later"))
        await swarm.until(lambda: len(swarm.running("later")) == 4)

    play(2, scene)


def test_sessions_opened_one_after_the_other_by_a_host_that_answers_no_probe() -> None:
    """Each supersedes the last one, or ends while the host is being asked about the one before."""

    async def scene(swarm: Swarm) -> None:
        async def no_answer(asked: Sequence[IPv4Address]) -> bool:
            await asyncio.sleep(0.3)
            return False

        swarm.manager._suspicion._probe = no_answer
        agent = swarm.agents[0]
        await swarm.kill(0)
        for pause in (0.01, 0.1, 0.29, 0.3, 0.31) * 3:
            session = asyncio.create_task(agent.session())
            await asyncio.sleep(0.1)
            session.cancel()
            await asyncio.wait([session])
            await asyncio.sleep(pause)
        assert swarm.manager._running is not None
        assert not swarm.manager._running.done()
        swarm.connect(agent)
        await swarm.until(
            lambda: swarm.manager.swarm.state.nodes[agent.node].status.state is NodeState.READY
        )
        await swarm.manager.swarm.create_service(web(2))
        await swarm.until(lambda: len(swarm.running("web")) == 2)

    play(2, scene)
