"""Who costs the manager more of its processor than its share is not read from, whatever it sends,
and others are.

Real TLS and sockets on loopback. What is counted is what was read and what was charged, never how
fast.
"""

import asyncio
import logging
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, cast

import pytest
import uvloop

from tests.support.certified import HOUR, Member, Swarm, free_port, swarm
from weft.model import codec
from weft.model.ids import ClusterId, NodeId
from weft.model.logs import LogsWanted
from weft.model.node import NodeDescription, Role
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec
from weft.pki import authority
from weft.session import tls
from weft.session.identity import Credentials
from weft.session.listener import Limits, Listener
from weft.session.messages import Heartbeat, Hello, LogLines
from weft.session.pace import PIECE, Accounts, PaceLimits, Share

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop,
}  # fmt: skip
each_loop = pytest.mark.parametrize("loop", list(LOOPS))
ROOT = authority.root(authority.make_key(os.urandom), time.time_ns(), 1)
NOTHING = Share(1e-9, 1e-9)
"""What the first piece has cost is never earned again."""
PLENTY = Share(1e9, 1e9)
HURRY = Limits(pace=PaceLimits(member=Share(0.01, 0.002), source=PLENTY, strangers=PLENTY))
"""A burst that any flood uses up at once."""


def run(main: Callable[[], Coroutine[Any, Any, None]], loop: str) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main())


# --- the listener by itself


def credentials(name: str) -> Credentials:
    key = authority.make_key(os.urandom)
    role: Role = "manager" if name == "manager" else "worker"
    issued = authority.issue(
        ROOT,
        authority.request(key),
        authority.NodeCertificate(
            node=NodeId(name),
            role=role,
            cluster=ClusterId("c"),
            begin=time.time_ns(),
            lifetime=HOUR,
            serial=5,
        ),
    )
    return Credentials(issued, authority.private_pem(key), ROOT.certificate)


class Echo(asyncio.Protocol):
    """Says what it hears, and keeps count of it."""

    def __init__(self, heard: dict[str, int]) -> None:
        self._heard = heard
        self._name = ""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        certificate = transport.get_extra_info("peercert")
        self._name = (
            dict(part[0] for part in certificate["subject"])["commonName"] if certificate else ""
        )

    def data_received(self, data: bytes) -> None:
        self._heard[self._name] = self._heard.get(self._name, 0) + len(data)
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Place:
    """A listener with echoes behind it."""

    def __init__(self, pace: PaceLimits, known: Callable[[str], bool] = lambda _: False) -> None:
        self.heard: dict[str, int] = {}
        context = tls.server_context(credentials("manager"))
        self._listener = Listener(
            lambda: Echo(self.heard), lambda: context, Limits(pace=pace), known
        )
        self.port = free_port()
        self._opened: list[asyncio.StreamWriter] = []
        self._listener.start(f"127.0.0.1:{self.port}")

    async def __aenter__(self) -> "Place":
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._opened:
            writer.transport.abort()
        await self._listener.close()

    async def open(self, name: str = "", source: str = "127.0.0.1") -> Streams:
        """As that member, or a stranger."""
        context = (
            tls.node_context(credentials(name)) if name else tls.client_context(ROOT.certificate)
        )
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            self.port,
            ssl=context,
            server_hostname=tls.MANAGER_NAME,
            local_addr=(source, 0),
        )
        self._opened.append(writer)
        return reader, writer


async def echoed(streams: Streams, sent: bytes) -> None:
    reader, writer = streams
    writer.write(sent)
    assert await reader.readexactly(len(sent)) == sent


@each_loop
def test_all_arrives_in_order_through_ever_so_many_pauses(loop: str) -> None:
    async def main() -> None:
        async with Place(PaceLimits(member=Share(0.2, 0.001))) as place:
            for sent in (b"early", os.urandom(3 << 20)):
                await echoed(await place.open("a"), sent)

    run(main, loop)


@each_loop
def test_a_member_in_debt_is_not_read_from_on_any_of_its_connections_and_others_are(
    loop: str,
) -> None:
    async def main() -> None:
        async with Place(PaceLimits(member=NOTHING)) as place:
            pairs = [await place.open("debtor") for _ in range(3)]
            for pair in pairs:
                await echoed(pair, b"a piece")
            for _, writer in pairs:
                writer.write(b"x" * (8 << 20))
            for number in range(20):
                await echoed(await place.open(f"other{number}"), b"y" * 100)
            assert place.heard["debtor"] <= len(pairs) * (len(b"a piece") + PIECE)

    run(main, loop)


@each_loop
def test_others_have_their_turn_after_each_piece(loop: str) -> None:
    async def main() -> None:
        async with Place(PaceLimits(PLENTY, PLENTY, PLENTY)) as place:
            streams = await place.open("a")
            await echoed(streams, b"a piece")
            whole = asyncio.create_task(echoed(streams, b"x" * (4 << 20)))
            seen = [place.heard["a"]]
            while not whole.done():
                await asyncio.sleep(0)
                seen.append(place.heard["a"])
            await whole
            assert max(after - before for before, after in pairwise(seen)) <= PIECE

    run(main, loop)


@each_loop
def test_a_node_that_has_not_shown_its_certificate_yet_does_not_wait_for_strangers(
    loop: str,
) -> None:
    async def main() -> None:
        node = "127.0.0.2"
        async with Place(
            PaceLimits(strangers=NOTHING), known=lambda source: source == node
        ) as place:
            stranger = asyncio.create_task(echoed(await place.open(source="127.0.0.3"), b"y"))
            for number in range(5):
                await echoed(await place.open(f"node{number}", source=node), b"y" * 100)
            assert not stranger.done(), (
                "a handshake takes two pieces, and then there is nothing left"
            )
            stranger.cancel()
            await asyncio.wait([stranger])

    run(main, loop)


def test_each_pays_for_itself_and_strangers_also_together() -> None:
    now = 0.0
    accounts = Accounts(
        PaceLimits(Share(1, 1), Share(1, 1), Share(1, 2)),
        lambda source: source == "node",
        lambda: now,
    )
    assert [accounts.member("a")(2), accounts.member("a")(1), accounts.member("b")(1)] == [1, 2, 0]
    assert [accounts.stranger("node")(3), accounts.stranger("x")(1), accounts.stranger("y")(1)] == [
        2,
        0,
        0,
    ]
    assert [accounts.stranger("z")(1), accounts.stranger("node")(0)] == [1, 2]
    now = 10
    assert [accounts.member("a")(1), accounts.stranger("z")(1)] == [0, 0]


# --- floods of a worker


def frame(payload: bytes, opcode: int = 0x82) -> bytes:
    if len(payload) < 126:
        return bytes([opcode, 0x80 | len(payload)]) + bytes(4) + payload
    return struct.pack("!BBH4x", opcode, 0xFE, len(payload)) + payload


def records_of_one_byte(tunnel: ssl.SSLSocket) -> None:
    for _ in range(200):
        tunnel.sendall(b"x")


def hello(member: Member) -> bytes:
    said = Hello(
        node=member.node, description=NodeDescription(), data_path_address=str(member.address)
    )
    return frame(codec.encode(said))


KINDS: dict[str, tuple[str, bytes, bytes]] = {
    "fragments": ("session", frame(b"", 0x02), frame(b"", 0x00) * 2700),
    "fragments not masked": ("session", frame(b"", 0x02), b"\0\0" * 8000),
    "heartbeats": ("session", b"", frame(codec.encode(Heartbeat())) * 500),
    "tiny TLS records": ("session", struct.pack("!BBQ4x", 0x82, 0xFF, 3 << 20), b""),
    "fragments of logs": ("logs", frame(b"", 0x02), frame(b"", 0x00) * 2700),
    "empty messages of logs": ("logs", b"", frame(codec.encode(LogLines(()))) * 500),
}
"""Where, what comes first, and what comes then without end; records of one byte if that is
nothing."""


class Flood:
    """In a thread, as fast as it is taken."""

    def __init__(self, target: Swarm, member: Member, path: str, first: bytes, then: bytes) -> None:
        self._stop = threading.Event()
        host, _, port = target.address.rpartition(":")
        plain = socket.create_connection((host, int(port)))
        context = tls.node_context(member.credential_source.credentials)
        name = tls.MANAGER_NAME
        self._tunnel = context.wrap_socket(
            plain, server_hostname=name, do_handshake_on_connect=False
        )
        self._says = f"GET {path} HTTP/1.1\r\nhost: m\r\nupgrade: websocket\r\nconnection: upgrade\r\n".encode()
        self._says += (
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            + first
        )
        self._then = then
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            self._tunnel.do_handshake()
            self._tunnel.sendall(self._says)
            while not self._stop.is_set():
                (
                    self._tunnel.sendall(self._then)
                    if self._then
                    else records_of_one_byte(self._tunnel)
                )

    def end(self) -> None:
        self._stop.set()
        with suppress(OSError):
            self._tunnel.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._tunnel.close()


@contextmanager
def flood(target: Swarm, member: Member, kind: str, path: str) -> Iterator[None]:
    where, first, then = KINDS[kind]
    going = Flood(target, member, path, first if where == "logs" else hello(member) + first, then)
    try:
        yield
    finally:
        going.end()


async def wanted_logs(target: Swarm, member: Member) -> tuple[str, asyncio.Task[None]]:
    """Where they are to be published, and what reads them."""
    spec = ServiceSpec(
        name="web", replicas=len(target.members), task=TaskSpec(container=ContainerSpec(image="i"))
    )
    service = await target.manager.swarm.create_service(spec)
    await target.until(
        lambda: all(task.node for task in target.manager.swarm.state.tasks_of(service).values())
    )

    async def read() -> None:
        async for _ in target.manager.swarm.logs(LogsWanted(service=service, follow=True)):
            pass

    reading = asyncio.create_task(read())
    await target.until(lambda: member.asked)
    return f"/v1/streams/{member.asked[0].subscription}", reading


@each_loop
@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_floods_its_connection_is_read_more_slowly_and_others_as_ever(
    loop: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with swarm(time.time_ns, workers=0) as target, target.listen(HURRY):
            bad = await target.join()
            await target.until(lambda: bad.uplink.connected)
            path, reading = "/v1/session", None
            if KINDS[kind][0] == "logs":
                path, reading = await wanted_logs(target, bad)
            else:
                await bad.stop()
            with flood(target, bad, kind, path):
                await target.until(lambda: slowed(caplog, bad))
                other = await target.join()
                await target.until(lambda: other.uplink.connected)
            if reading is not None:
                reading.cancel()
            for member in target.members:
                await member.stop()
            assert not slowed(caplog, other)

    with caplog.at_level(logging.INFO):
        run(main, loop)


def slowed(caplog: pytest.LogCaptureFixture, member: Member) -> bool:
    return any(
        f"pace.slowed who=member {member.node} " in record.getMessage() for record in caplog.records
    )
