"""The API over TCP: mutual TLS with half-close, in front of the protocol that also serves the UNIX
socket.

    TCP ⇄ SSLObject and two MemoryBIOs ⇄ socket pair ⇄ aiohttp

The TLS of asyncio and of uvloop closes both directions when the client closes one. `docker exec`
without a standard input closes its sending direction at once, and would get no answer. Here the
client's close_notify becomes the end of one direction of the socket pair. At most a few chunks wait
in each direction: a writer that is faster than its reader must wait. The API receives no data
before the handshake is done, and the handshake succeeds only for a client with a certificate that
the CA signed. `system/doorway.py` limits the number of clients in the handshake, and decides which
of them are dropped.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable

from weft.errors import InvalidArgument, OperationFailed, cause_of
from weft.system.crowd import CrowdLimits
from weft.system.doorway import BACKLOG, DoorLimits, Doorway, Guest
from weft.system.tls_files import TlsFiles, load, reason

log = logging.getLogger(__name__)

CHUNK = 64 * 1024
HANDSHAKE_TIMEOUT = 10.0
"""Seconds within which a client must have shown its certificate."""
DOOR = DoorLimits(
    CrowdLimits(strangers=128, per_source=64), proof=HANDSHAKE_TIMEOUT + 5,
    rate=100, burst=300, strangers_rate=200, strangers_burst=600,
)  # fmt: skip
"""A client of the API may open a connection for each request."""
LINGER = 1.0
"""Seconds for a refused client to read the alert. To close the connection while the client still
sends would reset it, and the alert would be lost."""

Factory = Callable[[], asyncio.BaseProtocol]


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Raises `InvalidArgument` that names the file if a file cannot be read or used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    return load(context, files, "tls")


class TlsListener:
    """Serves `factory`'s protocol at one TCP address. Replaced files take effect with the next
    connection."""

    def __init__(self, files: TlsFiles, factory: Factory) -> None:
        self._files = files
        self._factory = factory
        self._context = server_context(files)
        self._stamp = self._looked_at()
        self._door = Doorway(self._begin, DOOR)
        self._open: set[asyncio.Task[None]] = set()

    async def start(self, address: str, port: int) -> int:
        """Returns the port, which the kernel chooses for 0. Raises `OperationFailed` if the address
        cannot be used."""
        bound: list[socket.socket] = []
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            for family, place in dict.fromkeys((family, place) for family, *_, place in found):
                bound.append(_listening(family, place))
        except OSError as error:
            for each in bound:
                each.close()
            raise OperationFailed(
                f"cannot listen on tcp://{address}:{port}: {cause_of(error)}"
            ) from error
        for each in bound:
            self._door.start(each)
        actual: int = bound[0].getsockname()[1]
        return actual

    def stop_listening(self) -> None:
        self._door.stop_listening()

    async def close(self) -> None:
        self._door.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def _begin(self, guest: Guest) -> None:
        connection = guest.adopted(lambda: task.cancel())
        task = asyncio.create_task(self._serve(connection, guest))
        self._open.add(task)
        task.add_done_callback(lambda task: self._ended(task, connection, guest))

    def _ended(self, task: asyncio.Task[None], connection: socket.socket, guest: Guest) -> None:
        """Runs as a callback and not in the task: a task that is cancelled before its first step
        runs none of its code."""
        guest.leave()
        self._open.discard(task)
        if task.cancelled():
            connection.close()
        elif error := task.exception():
            log.error("api.tls.failed", exc_info=error)

    async def _serve(self, accepted: socket.socket, guest: Guest) -> None:
        reader, writer = await asyncio.open_connection(sock=accepted, limit=CHUNK)
        is_broken = True
        try:
            connection = _Connection(self._current(), reader, writer)
            if await connection.handshake(guest.source):
                guest.leave()
                await connection.carry(self._factory)
            is_broken = connection.broken
        except OSError as error:
            log.debug("api.tls.lost cause=%s", error)
        finally:
            writer.transport.abort() if is_broken else writer.close()

    def _current(self) -> ssl.SSLContext:
        """Loads the files again if one changed. If the files do not fit together, perhaps because
        some are not replaced yet, the last valid context stays."""
        stamp = self._looked_at()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = server_context(self._files)
                log.info("api.tls.reloaded certificate=%s", self._files.certificate)
            except InvalidArgument as error:
                log.warning("api.tls.kept cause=%s", error)
        return self._context

    def _looked_at(self) -> tuple[tuple[int, int, int] | None, ...]:
        found: list[tuple[int, int, int] | None] = []
        for path in (self._files.ca, self._files.certificate, self._files.key):
            try:
                status = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)


def _listening(family: int, place: object) -> socket.socket:
    """Raises `OSError`."""
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setblocking(False)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(place)  # type: ignore[arg-type]
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


class _Connection:
    def __init__(
        self, context: ssl.SSLContext, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader, self._writer = reader, writer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self.broken = False
        """The client's stream ended without close_notify or was not valid TLS, so that no
        close_notify can reach the client."""

    async def handshake(self, peer: str) -> bool:
        """False if the client did not authenticate itself. A failed handshake is answered with an
        alert."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                return await self._shake_hands()
        except ssl.SSLError as error:
            log.info("api.tls.refused peer=%s cause=%s", peer, reason(error))
            await self._say_why()
            return False
        except TimeoutError:
            log.info(
                "api.tls.refused peer=%s cause=handshake not done after %d s",
                peer,
                HANDSHAKE_TIMEOUT,
            )
            self.broken = True
            return False

    async def _shake_hands(self) -> bool:
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
            if not await self._receive():
                return False
        await self._flush()
        return True

    async def carry(self, factory: Factory) -> None:
        """Returns when the server has closed its direction or the client is gone. Both ends of the
        socket pair are closed by then."""
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as opened:
            opened.callback(ours.close)
            opened.callback(theirs.close)
            ours.setblocking(False)
            theirs.setblocking(False)
            served, _ = await asyncio.get_running_loop().connect_accepted_socket(factory, theirs)
            opened.callback(served.abort)
            plain = await asyncio.open_unix_connection(sock=ours, limit=CHUNK)
            opened.callback(plain[1].transport.abort)
            await self._carry(*plain)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inward = asyncio.create_task(self._carry_in(writer))
        try:
            while data := await reader.read(CHUNK):
                self._tls.write(data)
                await self._flush()
            if not self.broken:
                with contextlib.suppress(ssl.SSLError):
                    self._tls.unwrap()
                await self._flush()
        finally:
            inward.cancel()
            await asyncio.gather(inward, return_exceptions=True)

    async def _carry_in(self, plain: asyncio.StreamWriter) -> None:
        """Returns when the client sends close_notify. The end of the stream without close_notify is
        a lost connection, not the end of input."""
        try:
            while True:
                try:
                    data = self._tls.read(CHUNK)
                except ssl.SSLWantReadError:
                    await self._flush()
                    if not await self._receive():
                        break
                    continue
                except ssl.SSLZeroReturnError:
                    data = b""
                if not data:
                    plain.write_eof()
                    return
                plain.write(data)
                await plain.drain()
        except (
            OSError,
            RuntimeError,
        ) as error:  # uvloop raises RuntimeError for a closed transport
            log.debug("api.tls.lost cause=%s", error)
        self.broken = True
        plain.transport.abort()

    async def _receive(self) -> bool:
        data = await self._reader.read(CHUNK)
        self._in.write(data)
        return bool(data)

    async def _flush(self) -> None:
        if data := self._out.read():
            self._writer.write(data)
        await self._writer.drain()

    async def _say_why(self) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER):
                await self._flush()
                self._writer.write_eof()
                while await self._reader.read(CHUNK):
                    pass
