"""The name service of the containers: in each sandbox a UDP and a TCP socket at 127.0.0.11, all
served by the event loop.

An adapter makes the sockets inside the namespace, and they belong to this process, so no container
needs a thread or a process. `dns.resolver.answer` decides. Forwarded questions go to the servers
that the user or the host named, one after the other (`forwarder.py`). The limits are Docker's:
three servers, 4 s each, 1,024 questions under way."""

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

from weft.dns import codec
from weft.dns.resolver import Forward, answer, failure
from weft.dns.zone import Zone
from weft.engine.adapters import NetworkAdapters
from weft.engine.forwarder import Forwarder, NameServers
from weft.engine.name_tally import NameTally, Source
from weft.model.local_sandbox import LocalSandbox
from weft.model.sandbox import RESOLVER_ADDRESS, RESOLVER_PORT, Sandbox

log = logging.getLogger(__name__)

BATCH = 64
"""Datagrams read from one container before others get their turn."""
MAX_CONNECTIONS = 32
"""TCP connections of one container at a time."""
IDLE = 10.0
"""Seconds that a TCP connection may be silent."""
REOPEN_PAUSE = 1.0
"""Seconds before a name server that could not be opened for a running container is tried again."""

Address = tuple[str, int]


class SandboxResolver:
    """The name server in one sandbox."""

    def __init__(
        self,
        udp: socket.socket,
        tcp: socket.socket,
        zone: Callable[[], Zone],
        servers: Callable[[], NameServers],
        forwarder: Forwarder,
        tally: NameTally,
    ) -> None:
        self._tally = tally
        self._udp = udp
        self._tcp = tcp
        self._zone = zone
        self._servers = servers
        self._forwarder = forwarder
        self._rng = random.Random()
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        asyncio.get_running_loop().add_reader(self._udp, self._readable)
        self._server = await asyncio.start_server(self._connected, sock=self._tcp)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._udp)
        self._udp.close()
        if self._server is not None:
            self._server.close()
        self._tcp.close()
        for task in tuple(self._tasks):
            task.cancel()

    # --- UDP

    def _readable(self) -> None:
        for _ in range(BATCH):
            try:
                query, client = self._udp.recvfrom(codec.MAX_TCP)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.info("resolver.receive_failed cause=%s", error)
                return
            begun = perf_counter()
            reply = answer(query, self._zone(), self._rng, "udp")
            if isinstance(reply, Forward):
                self._forward(reply.query, client, begun)
                continue
            if reply is not None:
                self._send(reply, client)
            self._tally.add(reply, "here", "udp", begun)

    def _forward(self, query: bytes, client: Address, begun: float) -> None:
        if self._forwarder.is_full:
            refusal = failure(query, codec.REFUSED)
            self._send(refusal, client)
            self._tally.add(refusal, "here", "udp", begun)
        else:
            self._spawn(self._forward_and_send(query, client, begun))

    async def _forward_and_send(self, query: bytes, client: Address, begun: float) -> None:
        reply = await self._forwarder.ask(query, self._servers(), "udp")
        self._send(reply, client)
        self._tally.add(reply, "forwarded", "udp", begun)

    def _send(self, reply: bytes, client: Address) -> None:
        try:
            self._udp.sendto(reply, client)
        except OSError as error:
            # As with any name server, the client asks again.
            log.debug("resolver.send_failed cause=%s", error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- TCP (RFC 7766): two octets of length before each message

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= MAX_CONNECTIONS:
            writer.close()
            return
        self._spawn(self._converse(reader, writer))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            while True:
                async with asyncio.timeout(IDLE):
                    query = await reader.readexactly(
                        int.from_bytes(await reader.readexactly(2), "big")
                    )
                reply = await self._answer_tcp(query)
                if reply is None:
                    return
                async with asyncio.timeout(IDLE):
                    writer.write(len(reply).to_bytes(2, "big") + reply)
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            return
        finally:
            self._connections -= 1
            writer.close()

    async def _answer_tcp(self, query: bytes) -> bytes | None:
        begun = perf_counter()
        source: Source = "here"
        reply = answer(query, self._zone(), self._rng, "tcp")
        if isinstance(reply, Forward):
            if self._forwarder.is_full:
                reply = failure(query, codec.REFUSED)
            else:
                reply = await self._forwarder.ask(query, self._servers(), "tcp")
                source = "forwarded"
        self._tally.add(reply, source, "tcp", begun)
        return reply


S = TypeVar("S", Sandbox, LocalSandbox)


class Resolvers(Generic[S]):
    """The name servers of the sandboxes of one kind on this node."""

    def __init__(
        self,
        adapters: NetworkAdapters,
        zone: Callable[[S], Zone],
        named: Callable[[S], tuple[str, ...]],
        tally: NameTally,
    ) -> None:
        """`zone`: the names that the sandbox may see. `named`: the name servers that its user
        named."""
        self._adapters = adapters
        self._zone: Callable[[S], Zone] = zone
        self._named: Callable[[S], tuple[str, ...]] = named
        self._forwarder = Forwarder(adapters.names.open_socket)
        self._tally = tally
        self._open: dict[str, SandboxResolver] = {}

    def has(self, sandbox: S) -> bool:
        return sandbox.id in self._open

    async def open(self, sandbox: S) -> None:
        """Begins to answer in a sandbox; does nothing if it already answers there. Raises
        `OperationFailed`."""
        if sandbox.id in self._open:
            return
        sockets = await self._adapters.names.open_resolver(
            self._namespace_file(sandbox), RESOLVER_ADDRESS, RESOLVER_PORT
        )
        resolver = SandboxResolver(
            *sockets,
            lambda: self._zone(sandbox),
            lambda: self._servers(sandbox),
            self._forwarder,
            self._tally,
        )
        if sandbox.id in self._open:
            resolver.close()
            return
        self._open[sandbox.id] = resolver
        await resolver.open()

    def close(self, sandbox: S) -> None:
        resolver = self._open.pop(sandbox.id, None)
        if resolver is not None:
            resolver.close()

    def close_all(self) -> None:
        for resolver in self._open.values():
            resolver.close()
        self._open.clear()

    def _namespace_file(self, sandbox: S) -> Path:
        return self._adapters.namespaces / sandbox.key

    def _servers(self, sandbox: S) -> NameServers:
        named = self._named(sandbox)
        if named:
            return NameServers(named, self._namespace_file(sandbox))
        return NameServers(self._adapters.names.host_resolver().servers)
