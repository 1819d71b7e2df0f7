"""More of something than the manager can serve, at its real listener on loopback: others do not
notice.

Every address of 127.0.0.0/8 is this host's: the flood comes from one, the nodes from another. What
is counted is what got through, never time.
"""

import asyncio
import itertools
import logging
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address

import msgspec
import pytest
import uvloop

from tests.support.certified import Member, Swarm, swarm
from weft.errors import Unavailable
from weft.model import codec
from weft.model.node import NodeDescription
from weft.session import tls
from weft.session.base import AdmissionRequest, SessionClosed
from weft.session.client import Connector, join, open_socket
from weft.session.messages import MAX_FROM_MANAGER, Goodbye, Hello, Welcome
from weft.session.server import SessionServer
from weft.system.doorway import DoorLimits

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop,
}  # fmt: skip
each_loop = pytest.mark.parametrize("loop", list(LOOPS))
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""aiohttp leaves a socket that is reset while it connects to the garbage collector, now and
then."""
FLOOD = "127.0.0.9"
PACE = 0.0005
"""Seconds: the thread shares this process's interpreter with those that it floods."""
ENOUGH = 1500
"""Connections that must have been made for it to be a flood: more than all places and queues
hold."""


def run(
    scene: Callable[[Swarm, SessionServer, Member], Awaitable[None]], loop: str = "asyncio"
) -> None:
    """With a member that has no session, which is known to be a node."""

    async def main() -> None:
        async with swarm(time.time_ns, workers=0) as target, target.listen() as server:
            insider = await target.join()
            await target.until(lambda: insider.uplink.connected)
            await insider.stop()
            await scene(target, server, insider)
            for member in target.members:
                await member.stop()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


def client_hello() -> bytes:
    """The first message of TLS, as a client sends it."""
    context = tls.unverified_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


class Flood:
    """Connections from one address in a thread of its own, some two thousand a second, until the
    end."""

    def __init__(self, address: str, source: str, says: bytes) -> None:
        self.count = 0
        self._target = (address.rpartition(":")[0], int(address.rpartition(":")[2]))
        self._source, self._says = source, says
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        open_ones: list[socket.socket] = []
        while not self._stop.wait(PACE):
            one = socket.socket()
            open_ones.append(one)
            one.settimeout(5)
            with suppress(OSError):
                one.bind((self._source, 0))
                one.connect(self._target)
                one.sendall(self._says)
                self.count += 1
            if len(open_ones) > 700:
                open_ones.pop(0).close()
        for one in open_ones:
            one.close()

    def end(self) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def flood(target: Swarm, source: str, says: bytes) -> Iterator[Flood]:
    going = Flood(target.address, source, says)
    try:
        yield going
    finally:
        going.end()


def hello(member: Member, **fields: object) -> Hello:
    said = Hello(
        node=member.node,
        description=NodeDescription(hostname="h"),
        data_path_address=str(member.address),
    )
    return msgspec.structs.replace(said, **fields)


async def session(target: Swarm, member: Member, first: Hello) -> Welcome | Goodbye:
    """The manager's first word in one session, which is closed again."""
    opened = await Connector(member.credential_source, lambda: [target.address])()
    try:
        await opened.send(first)
        answer = await opened.receive()
        assert isinstance(answer, Welcome | Goodbye)
        return answer
    finally:
        await opened.close("done")


@each_loop
@pytest.mark.parametrize(
    "says", [b"", client_hello(), b"\x16\x03\x01"], ids=["nothing", "hello", "garbage"]
)
def test_a_node_that_must_connect_again_gets_in_while_strangers_flood_the_port(
    loop: str, says: bytes
) -> None:
    async def scene(target: Swarm, server: SessionServer, insider: Member) -> None:
        with flood(target, FLOOD, says) as going:
            await target.until(lambda: going.count > ENOUGH)
            before = going.count
            attempts = 0
            for _ in range(20):
                answer = None
                while answer is None:
                    attempts += 1
                    with suppress(Unavailable):
                        answer = await session(target, insider, hello(insider))
                assert isinstance(answer, Welcome)
            assert attempts <= 25, "one that the machine was too busy for is no wonder"
            await target.until(lambda: going.count > before + ENOUGH)
            token = (await target.manager.swarm.join_tokens()).worker
            admitted, _ = await join([target.address], lambda csr: admission(token, csr), token)
            assert admitted.node in target.manager.swarm.state.nodes
            limits = DoorLimits()
            assert server.unproven <= limits.crowd.per_source + 10, (
                "the flood, and who is on the way in"
            )

    run(scene, loop)


def admission(token: str, csr: str) -> AdmissionRequest:
    return AdmissionRequest(
        token=token, csr=csr, hostname="new", data_path_address=IPv4Address("127.0.0.66")
    )


@each_loop
def test_who_shares_the_floods_address_gets_in_after_a_few_attempts(loop: str) -> None:
    """A container on the node's own host, say."""

    async def scene(target: Swarm, server: SessionServer, insider: Member) -> None:
        with flood(target, "127.0.0.1", b"") as going:
            await target.until(lambda: going.count > ENOUGH)
            insider.start()
            await target.until(lambda: insider.uplink.connected)

    run(scene, loop)


def test_what_strangers_send_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(target: Swarm, server: SessionServer, insider: Member) -> None:
        context = tls.client_context(target.manager.swarm.cluster.root_ca.certificate)
        host, _, port = target.address.rpartition(":")
        forged = codec.encode(admission("SWMTKN-1-forged", "x"))
        join_request = b"POST /v1/join HTTP/1.1\r\nhost: m\r\ncontent-length: %d\r\n\r\n%b" % (
            len(forged),
            forged,
        )
        for request in (
            b"GET / HTTP/9.9\r\n\x00: \r\n\r\n",
            b"GET /\x00 HTTP/1.1\r\n\r\n",
            join_request,
            join_request[:-5],
        ):
            for _ in range(20):
                reader, writer = await asyncio.open_connection(
                    host, int(port), ssl=context, server_hostname=tls.MANAGER_NAME
                )
                writer.write(request)
                if request is join_request:
                    assert b" 403 " in await reader.read()
                writer.transport.abort()
        await target.until(lambda: server.unproven == 0)

    with caplog.at_level(logging.INFO):
        run(scene)
    lines = [
        record
        for record in caplog.records
        if record.levelno >= logging.INFO and record.name.startswith("weft.session.server")
    ]
    refused = [record for record in lines if "refused" in record.message]
    assert len(refused) == 1
    assert len(lines) < 15
    assert not any(record.exc_info for record in lines)


def test_a_worker_that_is_refused_is_told_why_and_named_once_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(target: Swarm, server: SessionServer, insider: Member) -> None:
        before = target.manager.swarm.state.nodes[insider.node]
        bad = NodeDescription(
            hostname="h" * 100_000, engine_labels={str(n): "" for n in range(10_000)}
        )
        for _ in range(20):
            answer = await session(target, insider, hello(insider, description=bad))
            assert answer == Goodbye(
                "cannot open session: hostname has 100000 characters, more than 255"
            )
        assert target.manager.swarm.state.nodes[insider.node].description == before.description
        assert isinstance(await session(target, insider, hello(insider)), Welcome)

    with caplog.at_level(logging.INFO):
        run(scene)
    assert [
        record.levelname for record in caplog.records if "session.refused" in record.message
    ] == ["WARNING"]


def test_who_opens_sessions_all_the_time_is_told_to_wait_and_others_are_not() -> None:
    async def scene(target: Swarm, server: SessionServer, insider: Member) -> None:
        answers = [await session(target, insider, hello(insider)) for _ in range(50)]
        told = [
            isinstance(answer, Goodbye) and "opens sessions too often" in answer.reason
            for answer in answers
        ]
        assert 15 <= sum(told) <= 21, "one a second after the first thirty"
        other = await target.join()
        await target.until(lambda: other.uplink.connected)

    run(scene)


@each_loop
@pytest.mark.parametrize("kind", ["ping", "pong", "text"])
def test_frames_that_are_not_counted_end_the_session(loop: str, kind: str) -> None:
    async def scene(target: Swarm, server: SessionServer, insider: Member) -> None:
        context = tls.node_context(insider.credential_source.credentials)
        http, socket_ = await open_socket(target.address, "/v1/session", context, MAX_FROM_MANAGER)
        try:
            await socket_.send_bytes(codec.encode(hello(insider)))
            await socket_.receive()
            for _ in itertools.repeat(None, 10):
                with suppress(ConnectionError):
                    await {
                        "ping": socket_.ping,
                        "pong": socket_.pong,
                        "text": lambda: socket_.send_str("x"),
                    }[kind]()
            async with asyncio.timeout(20):
                while not socket_.closed:
                    await socket_.receive()
        finally:
            await http.close()

    run(scene, loop)


def test_a_connection_of_a_stranger_has_one_request() -> None:
    async def scene(target: Swarm, server: SessionServer, insider: Member) -> None:
        context = tls.client_context(target.manager.swarm.cluster.root_ca.certificate)
        host, _, port = target.address.rpartition(":")
        reader, writer = await asyncio.open_connection(
            host, int(port), ssl=context, server_hostname=tls.MANAGER_NAME
        )
        writer.write(b"GET /v1/root HTTP/1.1\r\nhost: m\r\n\r\n" * 100)
        answers = b""
        with suppress(ConnectionError):
            answers = await reader.read()
        assert answers.count(b"HTTP/1.1 200") == 1
        writer.transport.abort()

    run(scene)


def test_a_hundred_connections_of_one_node_take_no_more_than_its_places() -> None:
    async def scene(target: Swarm, server: SessionServer, insider: Member) -> None:
        most, opened = DoorLimits().crowd.per_member, []
        for _ in range(most + 10):
            while True:
                try:
                    opened.append(
                        await Connector(insider.credential_source, lambda: [target.address])()
                    )
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        assert server.unproven <= most
        with pytest.raises(SessionClosed):
            await opened[0].receive()
        other = await target.join()
        await target.until(lambda: other.uplink.connected)
        for each in opened:
            await each.close("done")

    run(scene)
