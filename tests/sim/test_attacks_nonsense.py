"""Nonsense at a manager's port, and those who say nothing or do not listen: the manager goes on,
and others do not notice."""

import asyncio
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, cast

import aiohttp
import pytest

from tests.support.attacks import asking, each_loop, posted, run
from tests.support.certified import Swarm, free_port
from weft.errors import Unavailable
from weft.manager import dispatch
from weft.model import codec
from weft.model.ids import TaskId
from weft.model.node import NodeDescription
from weft.model.task import TaskState, TaskStatus
from weft.session import listener, tls
from weft.session import server as session_server
from weft.session.base import Manager as SessionManager
from weft.session.base import ManagerSession, SessionClosed
from weft.session.client import Connector, join
from weft.session.listener import Limits
from weft.session.messages import (
    MAX_FROM_AGENT,
    Goodbye,
    Heartbeat,
    Hello,
    StatusUpdate,
    Trust,
)
from weft.session.server import SessionServer
from weft.system.crowd import CrowdLimits
from weft.system.doorway import DoorLimits

T = TypeVar("T")
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""aiohttp leaves a socket that is reset while it connects to the garbage collector, now and
then."""


@asynccontextmanager
async def raw(target: Swarm) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection with TLS and nothing said yet."""
    host, _, port = target.address.rpartition(":")
    context = tls.client_context(target.manager.swarm.cluster.root_ca.certificate)
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=context, server_hostname=tls.MANAGER_NAME
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@each_loop
def test_bodies_that_are_too_long_or_make_no_sense(loop: str) -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536

        for body in (
            b"",
            b"nonsense",
            b"\xc1" * 1000,
            codec.encode({"token": 5}),
            codec.encode([[[[]]]] * 1000),
        ):
            status, text = await posted(target, "/v1/join", body)
            assert (status, "malformed request" in text) == (400, True)
        good = codec.encode(
            asking((await target.manager.swarm.join_tokens()).worker, "no request at all")("")
        )
        status, text = await posted(target, "/v1/join", good)
        assert (status, "malformed request" in text) == (400, True)
        status, _ = await posted(target, "/v1/join", b"x" * 100_000)
        assert status == 413
        try:
            status, _ = await posted(target, "/v1/join", endless())
            assert status == 413
        except aiohttp.ClientError:
            pass
        assert (await posted(target, "/v1/nothing", b""))[0] == 404

    run(attack, loop=loop)


@each_loop
def test_what_is_not_even_http(loop: str) -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        for nonsense in (b"\0" * 4096, b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
                         b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100_000):  # fmt: skip
            async with raw(target) as (reader, writer):
                writer.write(nonsense)
                async with asyncio.timeout(20):
                    try:
                        answer = await reader.read(12)
                    except ConnectionError:
                        answer = b""
                assert answer in (b"", b"HTTP/1.1 400", b"HTTP/1.0 400")
        host, _, port = target.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/root HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(20):
            with suppress(ConnectionError):
                assert b"HTTP" not in await reader.read()
        writer.close()

    run(attack, loop=loop)


@each_loop
def test_frames_that_are_too_long_or_make_no_sense(loop: str) -> None:
    """By somebody with a certificate: such a session ends, and no other."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        insider = await target.join()
        await insider.stop()
        context = tls.node_context(insider.credential_source.credentials)
        hello = codec.encode(
            Hello(node=insider.node, description=NodeDescription(), data_path_address="127.0.0.66")
        )
        long = codec.encode(
            StatusUpdate(1, ((TaskId("t" * MAX_FROM_AGENT), TaskStatus(TaskState.RUNNING)),))
        )
        backwards = codec.encode(Trust("a root of mine"))
        cases: tuple[list[bytes | str], ...] = (
            [b"nonsense"],
            [b""],
            [hello, b"\xc1"],
            [hello, b"x" * (MAX_FROM_AGENT + 1)],
            [hello, long],
            [hello, hello],
            [codec.encode(Heartbeat())],
            [hello, backwards],
            [hello, "text"],
            [
                codec.encode(
                    Hello(
                        node=insider.node,
                        description=NodeDescription(),
                        data_path_address="nowhere",
                    )
                )
            ],
        )
        for frames in cases:
            async with aiohttp.ClientSession() as http:
                url = f"https://{target.address}/v1/session"
                async with http.ws_connect(
                    url, ssl=context, server_hostname=tls.MANAGER_NAME
                ) as session:
                    for frame in frames:
                        try:
                            await (
                                session.send_str(frame)
                                if isinstance(frame, str)
                                else session.send_bytes(frame)
                            )
                        except ConnectionError:
                            break
                    async with asyncio.timeout(20):
                        while not session.closed:
                            await session.receive()

    run(attack, loop=loop)


# --- those who say nothing, and those who do not listen

FEW = Limits(DoorLimits(CrowdLimits(strangers=64, per_source=64), silence=60, proof=60), send=1)


def memory() -> int:
    """Of this process, bytes that are in use now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def shake_hands(client: socket.socket, context: ssl.SSLContext) -> None:
    """As a client of TLS, which has no certificate and says nothing more."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tunnel = context.wrap_bio(incoming, outgoing, server_hostname=tls.MANAGER_NAME)
    while True:
        try:
            tunnel.do_handshake()
            return client.sendall(outgoing.read())
        except ssl.SSLWantReadError:
            client.sendall(outgoing.read())
            incoming.write(client.recv(1 << 16))


async def insisting(ask: Callable[[], Awaitable[T]]) -> T:
    """Who comes from an address of which there are too many is cut off, and comes again."""
    while True:
        try:
            return await ask()
        except Unavailable:
            await asyncio.sleep(0.1)


@each_loop
@pytest.mark.parametrize("secured", [False, True], ids=["tcp", "tls"])
def test_a_thousand_half_open_connections(loop: str, secured: bool) -> None:
    """TCP without TLS, and TLS without a request. Agents join all the same, before any of these is
    timed out, and the listener keeps no more than it wants to."""
    count = 1000

    async def attack(target: Swarm, server: SessionServer) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
        before, used = descriptors(), memory()
        host, _, port = target.address.rpartition(":")
        opened: list[socket.socket] = []
        context = tls.client_context(target.manager.swarm.cluster.root_ca.certificate)

        def open_one() -> None:
            client = socket.socket()
            opened.append(client)
            client.settimeout(2)
            with suppress(OSError):
                client.connect((host, int(port)))
                if secured:
                    shake_hands(client, context)

        crowd, highest = ThreadPoolExecutor(16), 0
        for _ in range(count):
            crowd.submit(open_one)

        async def watch() -> None:
            nonlocal highest
            while True:
                highest = max(highest, server.unproven)
                await asyncio.sleep(0.001)

        watching = asyncio.create_task(watch())
        token = (await target.manager.swarm.join_tokens()).worker
        try:
            good = await target.join()
            await target.until(lambda: good.uplink.connected)
            admitted = await insisting(lambda: join([target.address], asking(token), token))
            assert admitted[0].node in target.manager.swarm.state.nodes
            assert highest <= FEW.door.crowd.strangers + 2, "and who came with a certificate"
            assert descriptors() - before <= 2 * count + FEW.door.crowd.strangers + 20
            assert memory() - used < 400 << 20
        finally:
            watching.cancel()
            await asyncio.to_thread(crowd.shutdown, cancel_futures=True)
            for client in opened:
                client.close()

    run(attack, FEW, loop)


@each_loop
def test_a_connection_that_proves_nothing_is_cut(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before TLS, after it, after half a request, and as a session that says nothing though it has
    a certificate. By the listener's limits alone, long before what a manager has for a handshake, a
    request or a hello."""
    for patience in (
        (listener, "HANDSHAKE_TIMEOUT"),
        (session_server, "REQUEST_TIMEOUT"),
        (dispatch, "HELLO_TIMEOUT"),
    ):
        monkeypatch.setattr(*patience, 3600.0)

    async def attack(target: Swarm, server: SessionServer) -> None:
        insider = await target.join()
        await insider.stop()
        host, _, port = target.address.rpartition(":")
        plain, writer = await asyncio.open_connection(host, int(port))
        silent = await Connector(insider.credential_source, lambda: [target.address])()
        async with raw(target) as (tunnel, _), raw(target) as (half, asks):
            asks.write(b"POST /v1/join HTTP/1.1\r\nhost: m\r\ncontent-length: 500\r\n\r\nxxx")
            async with asyncio.timeout(60):
                for reader in (plain, tunnel, half):
                    with suppress(ConnectionError):
                        assert await reader.read() == b""
                with pytest.raises(SessionClosed):
                    await silent.receive()
        await silent.close("")
        writer.close()
        await target.until(lambda: server.unproven == 0)

    run(attack, Limits(DoorLimits(silence=1, proof=1)), loop)


@each_loop
def test_an_agent_that_does_not_read_is_cut_off(loop: str) -> None:
    """However long its assignments: one message waits for it, not all."""

    async def attack(target: Swarm, server: SessionServer) -> None:
        sent, reasons = 0, []

        class Talking:
            is_serving = True

            def knows(self, address: str) -> bool:
                return False

            async def serve(self, session: ManagerSession) -> None:
                nonlocal sent
                await session.receive()
                try:
                    while True:
                        await session.send(Trust("x" * (1 << 20)))
                        sent += 1
                except SessionClosed as error:
                    reasons.append(str(error))
                    raise

        talker = SessionServer(
            cast(SessionManager, Talking()),
            target.manager.swarm.cluster.id,
            target.founder.credential_source,
            Limits(send=1),
        )
        address = f"127.0.0.1:{free_port()}"
        await talker.start(address)
        try:
            used = memory()
            deaf = await Connector(target.members[1].credential_source, lambda: [address])()
            await deaf.send(Heartbeat())
            await target.until(lambda: reasons, 30)
            assert "has not read" in reasons[0]
            assert sent < 30, "what the kernel holds for a connection"
            assert memory() - used < 100 << 20
            with pytest.raises(SessionClosed):
                for _ in range(100):
                    await deaf.receive()
            await deaf.close("")
        finally:
            await talker.close()

    run(attack, loop=loop)


def test_one_node_has_one_session() -> None:
    async def attack(target: Swarm, server: SessionServer) -> None:
        insider = await target.join()
        await insider.stop()
        hello = Hello(
            node=insider.node, description=NodeDescription(), data_path_address="127.0.0.66"
        )
        sessions = []
        for _ in range(20):
            sessions.append(await Connector(insider.credential_source, lambda: [target.address])())
            await sessions[-1].send(hello)
            await sessions[-1].receive()
        for session in sessions[:-1]:
            async with asyncio.timeout(20):
                with pytest.raises(SessionClosed):
                    while not isinstance(await session.receive(), Goodbye):
                        pass
                    raise SessionClosed("said goodbye")
        for session in sessions:
            await session.close("")

    run(attack)
