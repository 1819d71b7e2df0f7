"""What a node may try with logs of services at a manager's real listener: whose lines it publishes,
which, and when."""

import asyncio
import time
from contextlib import suppress

import aiohttp
import pytest

from tests.support.attacks import again, each_loop, got, logs_of, run
from tests.support.certified import Member, Swarm
from weft.errors import FailedPrecondition, Forbidden, InvalidArgument, Unavailable
from weft.model import codec
from weft.model.container import LogLine
from weft.model.engine_state import EngineState
from weft.model.ids import NodeId, TaskId
from weft.model.logs import LogsWanted, TaskLog
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec
from weft.session import tls
from weft.session.base import PublishRequest
from weft.session.messages import (
    MAX_FRAME,
    EngineStateFrame,
    Heartbeat,
    LogLines,
    LogsRequest,
    Publish,
    StreamEnd,
)
from weft.session.server import SessionServer
from weft.session.streams import ManagerRelay, StreamConnector

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""aiohttp leaves a socket that is reset while it connects to the garbage collector, now and
then."""


OTHER_KIND = codec.encode(
    EngineStateFrame(EngineState(version="", revision=1, settled=True, sandboxes=0, networks=0))
)
"""A frame of a stream, but not of this one."""


def line(text: str) -> LogLine:
    return LogLine(1, time.time_ns(), text.encode())


def wanted_of(asked: Publish) -> LogsWanted:
    assert isinstance(asked.request, LogsRequest)
    return asked.request.wanted


async def subscribed(target: Swarm) -> tuple[list[TaskLog], "asyncio.Task[None]", list[Member]]:
    """Somebody follows the logs of a service that has a task on each of two nodes."""
    spec = ServiceSpec(
        name="web",
        replicas=len(target.members),
        task=TaskSpec(container=ContainerSpec(image="demo")),
    )
    id = await target.manager.swarm.create_service(spec)
    await target.until(
        lambda: all(task.node for task in target.manager.swarm.state.tasks_of(id).values())
    )
    read: list[TaskLog] = []

    async def follow() -> None:
        async for lines in target.manager.swarm.logs(LogsWanted(service=id, follow=True)):
            read.extend(lines)

    following = asyncio.create_task(follow())
    await target.until(lambda: all(member.asked for member in target.members))
    return read, following, target.members


def task_on(target: Swarm, member: Member) -> TaskId:
    return next(
        task.id for task in target.manager.swarm.state.tasks.values() if task.node == member.node
    )


def test_a_node_publishes_for_itself_only_and_when_it_is_asked() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        read, following, (one, other) = await subscribed(target)
        subscription = one.asked[0].subscription
        stranger = await target.join()
        for wallet_, name in (
            (stranger.credential_source, subscription),
            (one.credential_source, "guessed"),
            (one.credential_source, subscription[:-1] + "?"),
        ):
            with pytest.raises(Forbidden):
                await StreamConnector(wallet_)(target.address, name)
        status, text = await got(target, f"/v1/streams/{subscription}")
        assert (status, "no client certificate" in text) == (403, True)
        sink = await StreamConnector(one.credential_source)(target.address, subscription)
        with pytest.raises(Forbidden):
            await StreamConnector(one.credential_source)(target.address, subscription)
        own, foreign = task_on(target, one), task_on(target, other)
        await sink.send(
            LogLines(
                (
                    (foreign, line("false\n")),
                    (TaskId("nothing"), line("false\n")),
                    (own, line("true\n")),
                )
            )
        )
        await target.until(lambda: read)
        assert [(log.node, log.task, log.line.data) for log in read] == [(one.node, own, b"true\n")]
        following.cancel()
        await asyncio.wait((following,))
        async with asyncio.timeout(20):
            await sink.closed()
        await sink.close()
        with pytest.raises(Forbidden):
            await StreamConnector(other.credential_source)(target.address, subscription)

    run(attack)


@each_loop
def test_lines_that_are_too_long_or_make_no_sense(loop: str) -> None:
    """Such a connection ends, and the node is asked again; the others go on."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        read, following, (one, other) = await subscribed(target)
        context, subscription = (
            tls.node_context(one.credential_source.credentials),
            one.asked[0].subscription,
        )
        good = await StreamConnector(other.credential_source)(target.address, subscription)
        own = task_on(target, one)
        long = codec.encode(LogLines(((own, line("x" * MAX_FRAME)),)))
        frames: tuple[bytes | str, ...] = (
            b"nonsense",
            b"",
            long,
            b"x" * (MAX_FRAME + 1),
            "text",
            codec.encode(Heartbeat()),
            OTHER_KIND,
        )
        for turn, frame in enumerate(frames, 1):
            await target.until(lambda turn=turn: len(one.asked) >= turn)
            async with aiohttp.ClientSession() as http:
                url = f"https://{target.address}/v1/streams/{subscription}"
                async with http.ws_connect(
                    url, ssl=context, server_hostname=tls.MANAGER_NAME
                ) as socket:
                    with suppress(ConnectionError):
                        await (
                            socket.send_str(frame)
                            if isinstance(frame, str)
                            else socket.send_bytes(frame)
                        )
                    async with asyncio.timeout(20):
                        while not socket.closed:
                            await socket.receive()
        await good.send(LogLines(((task_on(target, other), line("true\n")),)))
        await target.until(lambda: read)
        assert [log.line.data for log in read] == [b"true\n"]
        following.cancel()
        await asyncio.wait((following,))
        await good.close()

    run(attack, loop=loop)


def test_an_agent_that_does_not_know_how_is_not_asked() -> None:
    """It would end the session over a message that it does not know."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        old = target.members[1]
        old.uplink._streams = None
        await again(old)
        await target.until(lambda: old.uplink.connected)
        with pytest.raises(
            InvalidArgument, match=f"node {old.node} cannot publish logs: its daemon is too old"
        ):
            await ManagerRelay(target.founder.credential_source)(target.address, logs_of(old))
        with pytest.raises(FailedPrecondition, match="has no session with this manager"):
            nobody = PublishRequest(node=NodeId("nobody"), publish=logs_of(old).publish)
            await ManagerRelay(target.founder.credential_source)(target.address, nobody)
        await ManagerRelay(target.founder.credential_source)(
            target.address, logs_of(target.founder)
        )
        await target.until(lambda: target.founder.asked == [logs_of(old).publish])
        assert old.uplink.connected

    run(attack)


def test_errors_of_a_node_are_said_but_not_at_any_length() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        read, following, (one, _) = await subscribed(target)
        following.cancel()
        await asyncio.wait((following,))
        own = task_on(target, one)
        errors: list[str] = []

        async def once() -> None:
            try:
                async for lines in target.manager.swarm.logs(LogsWanted(task=own)):
                    read.extend(lines)
            except Unavailable as error:
                errors.append(str(error))

        reading = asyncio.create_task(once())
        await target.until(lambda: wanted_of(one.asked[-1]).task == own)
        sink = await StreamConnector(one.credential_source)(
            target.address, one.asked[-1].subscription
        )
        await sink.send(LogLines(((own, line("true\n")),)))
        await sink.send(StreamEnd("cannot read: broken" + "; !!" * 10_000))
        await target.until(reading.done)
        assert [log.line.data for log in read] == [b"true\n"]
        assert f"node {one.node}: cannot read: broken; !!" in errors[0]
        assert len(errors[0]) < 2000
        await sink.close()

    run(attack)
