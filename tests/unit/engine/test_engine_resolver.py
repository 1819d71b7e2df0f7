"""The containers' name server over real sockets, on loopback only: answers, forwarding, limits."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address
from typing import cast

import dnslib
import pytest

from weft.dns.zone import NetworkNames, Zone
from weft.engine import forwarder as forwarder_module
from weft.engine.forwarder import Forwarder, NameServers, answers
from weft.engine.name_tally import NameTally
from weft.engine.resolver import MAX_CONNECTIONS, SandboxResolver

LOOPBACK = "127.0.0.1"
Address = tuple[str, int]
Replies = Callable[[dnslib.DNSRecord], list[bytes]]


def zone(forwards: bool = True) -> Zone:
    names = NetworkNames(
        network="net", internal=False, addresses={"web": (IPv4Address("10.0.1.2"),)}, pointers={}
    )
    return Zone(networks=(names,), forwards=forwards)


def bound(kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET, kind)
    made.setblocking(False)
    made.bind((LOOPBACK, 0))
    return made


async def open_here(
    inside: object, family: socket.AddressFamily, kind: socket.SocketKind
) -> socket.socket:
    assert inside is None
    made = socket.socket(family, kind)
    made.setblocking(False)
    return made


class Upstream(asyncio.DatagramProtocol):
    """A name server on loopback: `replies` makes of a question what goes back."""

    def __init__(self, replies: Replies) -> None:
        self.replies = replies
        self.asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # On some versions of Python the class of the transport does not say what it is.
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.asked += 1
        for reply in self.replies(dnslib.DNSRecord.parse(data)):
            self.transport.sendto(reply, addr)


def good(query: dnslib.DNSRecord) -> list[bytes]:
    reply = query.reply()
    reply.add_answer(dnslib.RR(query.q.qname, rdata=dnslib.A("192.0.2.7"), ttl=5))
    return [reply.pack()]


def refusing(query: dnslib.DNSRecord) -> list[bytes]:
    reply = query.reply()
    reply.header.rcode = dnslib.RCODE.REFUSED
    return [reply.pack()]


def lying(query: dnslib.DNSRecord) -> list[bytes]:
    """First an answer with another id, then one to another question, then noise; then the real
    one."""
    other_id, other_question = query.reply(), dnslib.DNSRecord.question("evil.example").reply()
    other_id.header.id = query.header.id ^ 1
    other_question.header.id = query.header.id
    return [other_id.pack(), other_question.pack(), b"\x00", *good(query)]


@contextlib.asynccontextmanager
async def resolver(
    servers: tuple[str, ...] = (),
    port: int = 53,
    forwards: bool = True,
    forwarder: Forwarder | None = None,
    tally: NameTally | None = None,
) -> AsyncIterator[tuple[Address, Address]]:
    from_zone = zone(forwards)
    udp, tcp = bound(socket.SOCK_DGRAM), bound(socket.SOCK_STREAM)
    tcp.listen()
    addresses = udp.getsockname(), tcp.getsockname()
    made = SandboxResolver(
        udp,
        tcp,
        lambda: from_zone,
        lambda: NameServers(servers),
        forwarder or Forwarder(open_here, port),
        tally or NameTally(),
    )
    await made.open()
    try:
        yield addresses
    finally:
        made.close()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def upstream(
    replies: Replies, address: str = LOOPBACK, port: int = 0
) -> AsyncIterator[tuple[Upstream, int]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: Upstream(replies), local_addr=(address, port)
    )
    try:
        yield protocol, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


async def ask_udp(address: Address, name: str, raw: bytes | None = None) -> dnslib.DNSRecord:
    loop = asyncio.get_running_loop()
    with bound(socket.SOCK_DGRAM) as client:
        await loop.sock_connect(client, address)
        await loop.sock_sendall(client, raw or bytes(dnslib.DNSRecord.question(name).pack()))
        async with asyncio.timeout(10):
            return dnslib.DNSRecord.parse(await loop.sock_recv(client, 65535))


async def ask_tcp(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], *names: str
) -> list[dnslib.DNSRecord]:
    reader, writer = streams
    found = []
    for name in names:
        query = dnslib.DNSRecord.question(name).pack()
        writer.write(len(query).to_bytes(2, "big") + query)
        size = int.from_bytes(await reader.readexactly(2), "big")
        found.append(dnslib.DNSRecord.parse(await reader.readexactly(size)))
    return found


def first(reply: dnslib.DNSRecord) -> str:
    return str(reply.rr[0].rdata if reply.rr else dnslib.RCODE[reply.header.rcode])


def test_names_of_the_networks_are_answered_here() -> None:
    async def main() -> None:
        async with resolver() as (udp, tcp):
            assert first(await ask_udp(udp, "web")) == "10.0.1.2"
            streams = await asyncio.open_connection(*tcp)
            assert first((await ask_tcp(streams, "web"))[0]) == "10.0.1.2"
            streams[1].close()

    asyncio.run(main())


@pytest.mark.parametrize("replies", [good, lying])
def test_what_is_not_known_here_is_asked_of_the_server(replies: Replies) -> None:
    async def main() -> None:
        async with upstream(replies) as (_, port), resolver((LOOPBACK,), port) as (udp, _):
            assert first(await ask_udp(udp, "example.org")) == "192.0.2.7"

    asyncio.run(main())


def test_answers_are_counted() -> None:
    """By code, source and transport; and how long they took."""

    async def main() -> None:
        tally = NameTally()
        async with (
            upstream(good) as (_, port),
            resolver((LOOPBACK,), port, tally=tally) as (udp, tcp),
        ):
            await ask_udp(udp, "web")
            await ask_udp(udp, "web")
            await ask_udp(udp, "example.org")
            streams = await asyncio.open_connection(*tcp)
            await ask_tcp(streams, "web")
            streams[1].close()
        async with resolver((), tally=tally) as (udp, _):
            await ask_udp(udp, "example.org")
        assert tally.answers.by_labels == {
            ("noerror", "here", "udp"): 2,
            ("noerror", "forwarded", "udp"): 1,
            ("noerror", "here", "tcp"): 1,
            ("servfail", "forwarded", "udp"): 1,
        }
        assert {name: s.count for name, s in tally.seconds.by_label.items()} == {
            "here": 3,
            "forwarded": 2,
        }

    asyncio.run(main())


def test_a_server_that_refuses_is_passed_over() -> None:
    async def main() -> None:
        async with upstream(refusing) as (bad, port), upstream(good, "127.0.0.2", port):
            async with resolver((LOOPBACK, "not an address", "127.0.0.2"), port) as (udp, _):
                assert first(await ask_udp(udp, "example.org")) == "192.0.2.7"
                assert bad.asked == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("servers", "forwards", "expected"),
    [((), True, "SERVFAIL"), ((LOOPBACK,), True, "REFUSED"), ((LOOPBACK,), False, "SERVFAIL")],
)
def test_without_a_good_answer(servers: tuple[str, ...], forwards: bool, expected: str) -> None:
    async def main() -> None:
        async with (
            upstream(refusing) as (server, port),
            resolver(servers, port, forwards) as (udp, _),
        ):
            assert first(await ask_udp(udp, "example.org")) == expected
            assert server.asked == (1 if expected == "REFUSED" else 0)

    asyncio.run(main())


def test_a_silent_server_costs_its_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_module, "TIMEOUT", 0.05)

    async def main() -> None:
        async with upstream(lambda query: []) as (_, port), upstream(good, "127.0.0.2", port):
            async with resolver((LOOPBACK, "127.0.0.2"), port) as (udp, _):
                assert first(await ask_udp(udp, "example.org")) == "192.0.2.7"

    asyncio.run(main())


def test_too_many_questions_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_module, "MAX_IN_FLIGHT", 0)

    async def main() -> None:
        async with resolver((LOOPBACK,)) as (udp, _):
            assert first(await ask_udp(udp, "example.org")) == "REFUSED"

    asyncio.run(main())


def test_noise_is_answered_or_dropped_and_the_server_lives_on() -> None:
    async def main() -> None:
        async with resolver() as (udp, _):
            assert (
                first(await ask_udp(udp, "", raw=b"\x01\x02\x01\x00\x00\x01" + b"\xff" * 20))
                == "FORMERR"
            )
            assert first(await ask_udp(udp, "example.org")) == "SERVFAIL"

    asyncio.run(main())


def test_several_questions_over_one_tcp_connection_and_a_limit_of_connections() -> None:
    async def main() -> None:
        async with resolver() as (_, tcp):
            streams = await asyncio.open_connection(*tcp)
            assert [first(r) for r in await ask_tcp(streams, "a.example", "b.example")] == [
                "SERVFAIL",
                "SERVFAIL",
            ]
            others = [await asyncio.open_connection(*tcp) for _ in range(MAX_CONNECTIONS - 1)]
            for other in others:
                await ask_tcp(other, "a.example")
            reader, refused = await asyncio.open_connection(*tcp)
            assert await reader.read() == b""
            for _, writer in (streams, *others, (reader, refused)):
                writer.close()

    asyncio.run(main())


def test_an_answer_is_one_to_the_question_only() -> None:
    query = bytes(dnslib.DNSRecord.question("Example.org").pack())
    reply = bytes(dnslib.DNSRecord.parse(query).reply().pack())
    assert answers(reply, query)
    assert answers(reply.replace(b"Example", b"eXAMPLE"), query)
    assert not answers(query, query)
    assert not answers(reply.replace(b"Example", b"Exbmple"), query)
    assert not answers(reply[:11], query)
