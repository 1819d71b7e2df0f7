"""Asks other name servers on behalf of the containers.

The host's name servers are asked from the host's namespace, where their addresses are valid: a
server may be on the host's loopback, or have an address that an overlay uses too. Name servers that
a container's user named are asked from the container's namespace: they may be services of the
swarm, on an internal network, or a program beside the container. Docker Engine makes the same
difference (`libnetwork/resolver.go`, `HostLoopback`). Each question has its own socket, and so its
own source port (RFC 5452). An answer counts only if it has the question's id, comes from the server
that was asked, and repeats the question."""

import asyncio
import ipaddress
import logging
import socket
from pathlib import Path
from typing import NamedTuple, cast

from weft.dns import codec
from weft.dns.resolver import Transport, failure
from weft.engine.adapters import OpenSocket
from weft.errors import OperationFailed
from weft.model.sandbox import RESOLVER_ADDRESS

log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 1024
MAX_SERVERS = 3
TIMEOUT = 4.0
"""Seconds per server. These three limits are Docker's (libnetwork resolver.go)."""
DNS_PORT = 53


class NameServers(NamedTuple):
    addresses: tuple[str, ...]
    inside: Path | None = None
    """File of the namespace to ask them from; None: the host's own."""


class Forwarder:
    def __init__(self, open_socket: OpenSocket, port: int = DNS_PORT) -> None:
        self._open_socket = open_socket
        self._port = port
        self._in_flight = 0

    @property
    def is_full(self) -> bool:
        return self._in_flight >= MAX_IN_FLIGHT

    async def ask(self, query: bytes, servers: NameServers, transport: Transport) -> bytes:
        """The first good answer; otherwise the last refusal, or SERVFAIL if no server answered."""
        self._in_flight += 1
        refusal = failure(query, codec.SERVFAIL)
        try:
            for server in [s for s in servers.addresses if _may_be_asked(s)][:MAX_SERVERS]:
                reply = await self._ask_one(query, server, servers.inside, transport)
                if reply is None:
                    continue
                if reply[3] & 0xF not in (codec.SERVFAIL, codec.REFUSED):
                    return reply
                refusal = reply
            return refusal
        finally:
            self._in_flight -= 1

    async def _ask_one(
        self, query: bytes, server: str, inside: Path | None, transport: Transport
    ) -> bytes | None:
        try:
            async with asyncio.timeout(TIMEOUT):
                if transport == "tcp":
                    return await self._over_tcp(query, server, inside)
                return await self._over_udp(query, server, inside)
        except (TimeoutError, OSError, OperationFailed, asyncio.IncompleteReadError) as error:
            log.debug("resolver.server_failed server=%s cause=%r", server, error)
            return None

    async def _over_udp(self, query: bytes, server: str, inside: Path | None) -> bytes:
        loop = asyncio.get_running_loop()
        connected = await self._connected(server, inside, socket.SOCK_DGRAM)
        transport, exchange = await loop.create_datagram_endpoint(
            lambda: _Exchange(query), sock=connected
        )
        try:
            return await exchange.reply
        finally:
            transport.close()

    async def _over_tcp(self, query: bytes, server: str, inside: Path | None) -> bytes | None:
        connected = await self._connected(server, inside, socket.SOCK_STREAM)
        reader, writer = await asyncio.open_connection(sock=connected)
        try:
            writer.write(len(query).to_bytes(2, "big") + query)
            await writer.drain()
            reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            return reply if answers(reply, query) else None
        finally:
            writer.close()

    async def _connected(
        self, server: str, inside: Path | None, kind: socket.SocketKind
    ) -> socket.socket:
        """A connected socket. A socket stays in the namespace that it was made in, wherever it is
        used."""
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        made = await self._open_socket(inside, family, kind)
        try:
            await asyncio.get_running_loop().sock_connect(made, (server, self._port))
        except BaseException:
            made.close()
            raise
        return made


class _Exchange(asyncio.DatagramProtocol):
    """One question and its answer, over a connected UDP socket."""

    def __init__(self, query: bytes) -> None:
        self._query = query
        self.reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # `create_datagram_endpoint` promises this; the classes do not say so, neither asyncio's own
        # before 3.12 nor uvloop's.
        cast(asyncio.DatagramTransport, transport).sendto(self._query)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.reply.done() and answers(data, self._query):
            self.reply.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.reply.done():
            self.reply.set_exception(exc)


def answers(reply: bytes, query: bytes) -> bool:
    """Whether `reply` answers this very question (RFC 5452 section 9.1). The question is compared
    as bytes without regard to case. A reply without any question is accepted if it reports an
    error."""
    if len(reply) < codec.HEADER.size or reply[:2] != query[:2] or not reply[2] & 0x80:
        return False
    if reply[4:6] == b"\0\0":
        return reply[3] & 0xF != codec.NOERROR
    end = codec.HEADER.size
    while end < len(query) and query[end]:
        end += query[end] + 1
    return reply[codec.HEADER.size : end + 5].lower() == query[codec.HEADER.size : end + 5].lower()


def _may_be_asked(server: str) -> bool:
    """The server is an IP address, and not the one at which the container's own question came
    in."""
    try:
        return ipaddress.ip_address(server.partition("%")[0]) != RESOLVER_ADDRESS
    except ValueError:
        return False
