"""The engine's process: `python -m weft.linux.esp.process SOCKET STATE DEVICE IMPLEMENTATION
NAMESPACE`, started by `handle.py`.

The engine outlives the daemon, and whichever daemon runs tells it what to protect. The engine
applies only the difference, so associations that stay keep their numbers and windows. Keys are in
memory only: never in a core dump, in swap, in arguments, in the environment or in the log. When the
engine ends by accident, the device stays behind without a reader, and nothing passes.

The threads of `datapath.py` move packets. The main thread talks to the daemon, and writes the
ledger ahead of the numbers that are used.
"""

import asyncio
import ctypes
import logging
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

from weft.errors import OperationFailed, WeftError
from weft.esp.gateway import COUNTERS
from weft.linux.esp import helper, tap
from weft.linux.esp.control import (
    PROTOCOL_VERSION,
    Apply,
    Implementation,
    Refused,
    Reply,
    Request,
    Status,
    Stop,
    peer,
    receive,
    send,
)
from weft.linux.esp.datapath import Change, Datapath
from weft.linux.esp.ledger import Ledger
from weft.model.encryption import Protection

log = logging.getLogger(__name__)

READY_FD = 3
"""The descriptor to which "ready", or the reason for a failure, is written once."""
_RETRY = 1.0
"""Seconds until the ledger is tried again after a failed write."""
_PR_SET_DUMPABLE = 4
_MCL_ALL = 1 | 2 | 4
"""Current and future pages, locked when they are first used."""


class Settings(NamedTuple):
    socket: Path
    state: Path
    device: str
    implementation: Implementation
    namespace: Path | None
    """The namespace with the device, if others make it; None if the engine makes it in its own."""


class Engine:
    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._with_helper = settings.implementation == "helper" or (
            settings.implementation == "auto" and helper.is_available()
        )
        self._datapath: Datapath | None = None
        self._protection: Protection | None = None
        self._counted = dict.fromkeys(COUNTERS, 0)
        """Packets counted by earlier data paths."""
        self._low = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        asyncio.get_running_loop().add_reader(self._low, self._on_low)

    def apply(self, wanted: Protection) -> None:
        """Brings `wanted` into force. Raises `OperationFailed`; then the old protection is still in
        force."""
        old = self._protection
        if (
            old is None
            or self._datapath is None
            or (old.local, old.port) != (wanted.local, wanted.port)
        ):
            old = Protection(local=wanted.local, port=wanted.port, vnis={}, outbound=(), inbound=())
        had_out, had_in = set(old.outbound), set(old.inbound)
        new = tuple(a for a in dict.fromkeys(wanted.outbound) if a not in had_out)
        blocks = self._ledger.reserve(new)
        change = Change(
            vnis=wanted.vnis,
            outbound_gone=had_out - set(wanted.outbound),
            outbound_new=tuple(zip(new, blocks, strict=True)),
            inbound_gone=had_in - set(wanted.inbound),
            inbound_new=tuple(a for a in dict.fromkeys(wanted.inbound) if a not in had_in),
        )
        datapath = self._datapath_for(wanted)
        datapath.set_mtu(wanted.mtu)
        datapath.change(change)
        self._protection = wanted
        log.info(
            "esp.applied peers=%d vnis=%d outbound=%s",
            len({a.destination for a in wanted.outbound}),
            len(wanted.vnis),
            new,
        )

    def _datapath_for(self, wanted: Protection) -> Datapath:
        if self._datapath is not None and self._protection is not None:
            if (self._protection.local, self._protection.port) == (wanted.local, wanted.port):
                return self._datapath
            self._close_datapath()
        device = tap.Tap(
            self._settings.device, offload=self._with_helper, namespace=self._settings.namespace
        )
        self._datapath = Datapath(
            wanted.local, wanted.port, device, self._with_helper, self._low, _die
        )
        return self._datapath

    def _close_datapath(self) -> None:
        if self._datapath is not None:
            self._counted = self._counters()
            self._datapath.close()
            self._datapath = self._protection = None

    def _on_low(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._low)
        if self._datapath is None:
            return
        low = tuple(self._datapath.low())
        try:
            blocks = self._ledger.reserve(low)
        except OperationFailed as error:
            log.error("esp.no_numbers cause=%s", error)
            asyncio.get_running_loop().call_later(_RETRY, self._on_low)
            return
        self._datapath.extend(dict(zip(low, blocks, strict=True)))
        log.info("esp.reserved associations=%s", low)

    def _counters(self) -> dict[str, int]:
        now = self._datapath.counters() if self._datapath is not None else {}
        return {name: before + now.get(name, 0) for name, before in self._counted.items()}

    def status(self) -> Status:
        return Status(
            PROTOCOL_VERSION, "helper" if self._with_helper else "python", self._counters()
        )

    def stop(self) -> None:
        self._close_datapath()
        if self._settings.namespace is None:
            tap.remove(self._settings.device)


class Server:
    """The control socket."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ended = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            _, user = peer(writer.get_extra_info("socket"))
            while user == os.geteuid():
                request = await receive(reader, Request)
                await send(writer, self._answer(request))
                if isinstance(request, Stop):
                    self.ended.set()
        except (OperationFailed, OSError):
            log.debug("esp.connection_ended")
        finally:
            writer.close()

    def _answer(self, request: Request) -> Reply:
        try:
            if isinstance(request, Apply):
                self._engine.apply(request.protection)
            elif isinstance(request, Stop):
                self._engine.stop()
            return self._engine.status()
        except WeftError as error:
            log.error("esp.refused cause=%s", error)
            return Refused(str(error))


def _die() -> None:
    """Ends this process because packets no longer pass; the daemon notices and starts another."""
    os._exit(1)


def _guard_memory() -> None:
    """Protects the keys in memory: no core dump, no tracer but root, no swap."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if libc.mlockall(_MCL_ALL) != 0:
        log.warning("esp.memory_not_locked cause=%s", os.strerror(ctypes.get_errno()))


async def serve(settings: Settings) -> None:
    # The lock is held from here on: no other engine runs on this host.
    ledger = Ledger(settings.state)
    server = Server(Engine(settings, ledger))
    settings.socket.unlink(missing_ok=True)
    listener = await asyncio.start_unix_server(server.talk, settings.socket)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.ended.set)
    _report("ready")
    await server.ended.wait()
    settings.socket.unlink(missing_ok=True)
    listener.close()


def _report(text: str) -> None:
    """Reports to the process that started this one, if it still listens."""
    with suppress(OSError):
        os.write(READY_FD, text.encode())
        os.close(READY_FD)


def main(argv: list[str]) -> int:
    path, state, device, implementation, namespace = argv
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _guard_memory()
    try:
        where = Path(namespace) if namespace else None
        asyncio.run(
            serve(
                Settings(
                    Path(path), Path(state), device, cast(Implementation, implementation), where
                )
            )
        )
    except (OperationFailed, OSError) as error:
        log.error("esp.cannot_start cause=%s", error)
        _report(str(error))
        return 1
    log.info("esp.ended")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
