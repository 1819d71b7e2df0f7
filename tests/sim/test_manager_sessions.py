"""Sessions of agents with a whole manager in memory, in virtual time: how they begin and end, what
counts of what is said in them, and nodes that say too much."""

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address

import msgspec
import pytest

from tests.support import virtual_time
from tests.support.fake_agent import FakeAgent
from tests.support.manager_scene import GRACE, Swarm, play, web
from weft.errors import (
    Forbidden,
    InvalidArgument,
)
from weft.manager.session import BURST, CERTIFICATE, RATE, STATUSES_PER_TOKEN
from weft.model.ids import TaskId
from weft.model.node import Node, NodeState
from weft.model.service import (
    PublishedPort,
)
from weft.model.task import TaskState, TaskStatus
from weft.session.base import SessionClosed
from weft.session.fake import WINDOW, MemoryAgentSession, session_pair
from weft.session.messages import (
    MAX_STATUSES,
    CertificateRequest,
    FromAgent,
    Heartbeat,
    StatusAccepted,
    StatusUpdate,
    Welcome,
)

# --- sessions


def test_a_newer_session_supersedes_the_older() -> None:
    async def scene(swarm: Swarm) -> None:
        agent = swarm.agents[0]
        twin = FakeAgent(
            swarm.manager, agent.identity, "node2", IPv4Address("10.59.72.12"), virtual_time.clock
        )
        first, second = swarm.sessions[0], asyncio.create_task(twin.session())
        await swarm.until(lambda: agent.farewell)
        assert agent.farewell == f"superseded by a newer session of node {agent.node}"
        first.cancel()
        await swarm.until(lambda: twin.changes)
        await swarm.manager.swarm.create_service(web(1))
        await swarm.until(lambda: swarm.running("web"))
        second.cancel()
        await asyncio.wait([first, second])

    play(1, scene)


def test_a_slow_reader_skips_what_it_missed() -> None:
    async def scene(swarm: Swarm) -> None:
        slow = swarm.agents[0]
        slow.reading.clear()
        for number in range(50):
            await swarm.manager.swarm.create_service(
                web(2, ports=(PublishedPort(80, 9000 + number),), name=f"s{number}")
            )
            await asyncio.sleep(0.2)
        received = len(slow.changes)
        slow.reading.set()
        await swarm.until(
            lambda: all(len(swarm.running(f"s{number}")) == 2 for number in range(50))
        )
        assert len(slow.changes) - received < 25
        assert len(slow.assignment.tasks) == 50

    play(2, scene)


def test_what_a_host_has_lost_is_known_with_the_word_that_it_is_ready_again() -> None:
    """In one commit, or somebody would be sent to containers that are not there. Of its own tasks
    only, and of those once."""

    async def scene(swarm: Swarm) -> None:
        await swarm.manager.swarm.create_service(web(4))
        await swarm.until(lambda: len(swarm.running("web")) == 4)
        agent, other = swarm.agents
        mine = [task for task in swarm.tasks("web") if task.node == agent.node]
        theirs = next(task for task in swarm.tasks("web") if task.node == other.node)
        await swarm.kill(0)
        await swarm.until(
            lambda: swarm.manager.swarm.state.nodes[agent.node].status.state is NodeState.DOWN, 60
        )
        lost = TaskStatus(
            TaskState.FAILED, virtual_time.clock(), "lost", "the host was started again"
        )
        ended = tuple((id, lost) for id in (mine[0].id, theirs.id, TaskId("nobody")))
        agent.hello = msgspec.structs.replace(agent.hello, ended=ended)
        agent.states = {}
        events = swarm.store.subscribe(("node", "task"))
        swarm.connect(agent)
        await swarm.until(
            lambda: swarm.manager.swarm.state.nodes[agent.node].status.state is NodeState.READY
        )
        (node,) = [
            obj
            for event in events.take()
            if isinstance(obj := event.after, Node) and obj.id == agent.node
        ]
        first, second = (swarm.manager.swarm.state.tasks[task.id] for task in mine)
        assert (first.status, first.meta.version) == (lost, node.meta.version)
        assert second.state == TaskState.RUNNING
        assert swarm.manager.swarm.state.tasks[theirs.id].state == TaskState.RUNNING
        await swarm.kill(2)
        session = swarm.connect(agent)
        await asyncio.sleep(5)
        assert not session.done()
        assert (
            swarm.manager.swarm.state.tasks.get(first.id, first).meta.version == node.meta.version
        )

    play(2, scene)


def test_a_silent_session_is_ended() -> None:
    async def scene(swarm: Swarm) -> None:
        agent = swarm.agents[0]
        agent.beating.clear()
        await swarm.until(lambda: agent.farewell, 3 * GRACE)
        assert "has been silent for 15 s" in agent.farewell

    play(1, scene)


def test_statuses_count_only_from_the_node_that_owns_the_task_and_only_grow() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.swarm.create_service(web(2))
        await swarm.until(lambda: len(swarm.running("web")) == 2)
        liar, victim = swarm.agents
        stolen, own = next(iter(victim.assignment.tasks)), next(iter(liar.assignment.tasks))
        await swarm.kill(0)
        before = {task.id: task.status for task in swarm.tasks("web")}
        lies = (
            (stolen, TaskStatus(TaskState.FAILED, err="stolen")),
            (own, TaskStatus(TaskState.STARTING)),
            (TaskId("nobody"), TaskStatus(TaskState.FAILED)),
        )
        ours, theirs = session_pair(liar.identity, "10.59.72.12")
        serving = asyncio.create_task(swarm.manager.serve(ours))
        await theirs.send(liar.hello)
        await theirs.send(StatusUpdate(7, lies))
        while await theirs.receive() != StatusAccepted(7):
            pass
        assert {task.id: task.status for task in swarm.tasks("web")} == before
        serving.cancel()
        await asyncio.wait([serving])

    play(2, scene)


def test_only_a_node_that_says_who_it_is_gets_a_session() -> None:
    async def scene(swarm: Swarm) -> None:
        agent = swarm.agents[0]
        founder = next(iter(swarm.manager.swarm.state.nodes))
        for first, error in (
            (msgspec.structs.replace(agent.hello, node=founder), Forbidden),
            (msgspec.structs.replace(agent.hello, data_path_address="here"), InvalidArgument),
            (Heartbeat(), SessionClosed),
        ):
            ours, theirs = session_pair(agent.identity, "10.59.72.12")
            await theirs.send(first)
            with pytest.raises(error):
                await swarm.manager.serve(ours)
        ours, _ = session_pair(agent.identity, "10.59.72.12")
        with pytest.raises(SessionClosed, match="did not say hello within 10 s"):
            await swarm.manager.serve(ours)

    play(1, scene)


def test_an_agent_that_reports_and_does_not_listen_is_cut_off() -> None:
    async def scene(swarm: Swarm) -> None:
        agent = swarm.agents[0]
        await swarm.kill(0)
        ours, theirs = session_pair(agent.identity, "10.59.72.12")
        serving = asyncio.create_task(swarm.manager.serve(ours))
        await theirs.send(agent.hello)
        for number in range(1, 1000):
            if serving.done():
                break
            await theirs.send(StatusUpdate(number, ()))
            await asyncio.sleep(0.02)
        with pytest.raises(SessionClosed, match="does not take the answers"):
            await serving

    play(1, scene)


# --- one node that sends as fast as it can

SECONDS = 20
MOST = BURST + RATE * SECONDS


async def session_of(
    swarm: Swarm, agent: FakeAgent
) -> tuple[MemoryAgentSession, asyncio.Task[None]]:
    """In place of its own."""
    ours, theirs = session_pair(agent.identity, agent.hello.data_path_address)
    await theirs.send(agent.hello)
    serving = asyncio.create_task(swarm.manager.serve(ours))
    assert isinstance(await theirs.receive(), Welcome)
    return theirs, serving


async def pour(session: MemoryAgentSession, messages: Iterable[FromAgent]) -> int:
    """How many were taken in so many seconds; what comes back is read."""

    async def read() -> None:
        while True:
            await session.receive()

    sent, reading = 0, asyncio.create_task(read())
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS):
            for message in itertools.islice(messages, 10 * int(MOST)):
                await session.send(message)
                sent += 1
                await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return sent


def flip(task: TaskId) -> Iterator[StatusUpdate]:
    """Each says something new."""
    for number in itertools.count():
        yield StatusUpdate(
            number, ((task, TaskStatus(TaskState.RUNNING, message=f"again {number}")),)
        )


@pytest.mark.parametrize("kind", ["heartbeats", "statuses", "many statuses", "certificates"])
def test_a_node_is_heard_no_more_often_than_makes_sense_and_the_others_as_ever(kind: str) -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.swarm.create_service(web(2))
        await swarm.until(lambda: len(swarm.running("web")) == 2)
        agent = swarm.agents[0]
        task = next(task.id for task in swarm.running("web") if task.node == agent.node)
        await swarm.kill(0)
        session, serving = await session_of(swarm, agent)
        revision, issued = swarm.store.state.revision, []
        certify = swarm.manager._certificates.answer
        swarm.manager._certificates.answer = lambda *args: issued.append(args) or certify(*args)  # type: ignore[func-returns-value,method-assign]  # counts
        many = tuple((TaskId(f"t{n}"), TaskStatus(TaskState.RUNNING)) for n in range(MAX_STATUSES))
        flood: dict[str, Iterable[FromAgent]] = {
            "heartbeats": itertools.repeat(Heartbeat()),
            "statuses": flip(task),
            "many statuses": (StatusUpdate(number, many) for number in itertools.count()),
            "certificates": itertools.repeat(CertificateRequest("")),
        }
        pouring = asyncio.create_task(pour(session, flood[kind]))
        await swarm.manager.swarm.create_service(web(1, name="later"))
        assert await swarm.until(lambda: swarm.running("later")) < 1
        sent = await pouring
        assert not serving.done()
        most = {
            "many statuses": MOST * STATUSES_PER_TOKEN / MAX_STATUSES,
            "certificates": MOST / CERTIFICATE,
        }.get(kind, MOST)
        assert most / 2 < sent <= most + WINDOW + 2
        assert swarm.store.state.revision - revision < MOST + 100
        assert len(issued) <= MOST / CERTIFICATE + 1
        await session.close("done")
        await asyncio.gather(serving, return_exceptions=True)

    play(2, scene)


def test_who_breaks_the_rules_in_the_middle_is_sent_away_and_nothing_of_it_is_kept() -> None:
    async def scene(swarm: Swarm) -> None:
        await swarm.manager.swarm.create_service(web(2))
        await swarm.until(lambda: len(swarm.running("web")) == 2)
        agent = swarm.agents[0]
        task = next(task for task in swarm.running("web") if task.node == agent.node)
        await swarm.kill(0)
        for status, cause in (
            (TaskStatus(TaskState.ORPHANED), "state ORPHANED of task .* is not a node's to say"),
            (TaskStatus(TaskState.RUNNING, timestamp=2**63), "timestamp"),
        ):
            session, serving = await session_of(swarm, agent)
            await session.send(StatusUpdate(1, ((task.id, status),)))
            with pytest.raises(InvalidArgument, match=f"cannot accept StatusUpdate: {cause}"):
                await serving
            assert swarm.manager.swarm.state.tasks[task.id].status == task.status
            await session.close("done")
        swarm.connect(agent)
        await swarm.manager.swarm.create_service(web(2, name="later"))
        await swarm.until(lambda: len(swarm.running("later")) == 2)

    play(2, scene)


def test_a_node_cannot_take_anothers_address_and_loses_one_that_it_took_while_the_other_was_away() -> (
    None
):
    async def scene(swarm: Swarm) -> None:
        nodes, (liar, victim) = swarm.manager.swarm.state.nodes, swarm.agents
        honest = liar.hello
        liar.hello = msgspec.structs.replace(
            honest, data_path_address=victim.hello.data_path_address
        )
        liar.source = honest.data_path_address
        await swarm.kill(0)
        async with asyncio.timeout(5):
            await liar.session()
        assert (
            liar.farewell
            == f"cannot open session: data path address 10.59.72.13 is that of node {victim.node}"
        )
        assert str(nodes[liar.node].data_path_address) == honest.data_path_address
        await swarm.kill(1)
        await swarm.until(lambda: nodes[victim.node].status.state is NodeState.DOWN, 60)
        swarm.connect(liar)
        await swarm.until(lambda: str(nodes[liar.node].data_path_address) == "10.59.72.13")
        swarm.connect(victim)
        await swarm.until(lambda: nodes[victim.node].status.state is NodeState.READY)
        assert nodes[liar.node].status.state is NodeState.DOWN
        assert (
            nodes[liar.node].status.message
            == f"its data path address is that of node {victim.node}"
        )
        await asyncio.sleep(60)
        assert nodes[victim.node].status.state is NodeState.READY
        assert nodes[liar.node].status.state is NodeState.DOWN

    play(2, scene)


def test_a_host_that_leaves_and_joins_again_is_ready_at_once() -> None:
    async def scene(swarm: Swarm) -> None:
        [before] = swarm.agents
        await swarm.kill(0)
        swarm.agents.clear()
        again = await swarm.join()
        assert again.hello.data_path_address == before.hello.data_path_address
        nodes = swarm.manager.swarm.state.nodes
        assert await swarm.until(lambda: nodes[again.node].status.state is NodeState.READY) < 1
        assert nodes[before.node].status.state is NodeState.DOWN

    play(1, scene)
