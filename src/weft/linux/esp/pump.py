"""A thread that moves packets. Only this thread may touch the objects that it uses for that; other
threads hand it functions to run.

So the packet path has no locks. A turn works until its wake-up descriptor is readable; the
functions run between two turns.
"""

import logging
import os
import queue
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from weft.esp.gateway import Opener, Sealed, Sealer
from weft.linux.esp.tap import ETHERNET, ETHERTYPE_IPV4, MAC

log = logging.getLogger(__name__)

T = TypeVar("T")
_PATIENCE = 10.0
"""Seconds that `do` waits for a turn to end; it takes microseconds."""
_BUDGET = 64
"""Packets taken from one descriptor before the other has its turn."""
_LARGEST = 65535


class Pump(threading.Thread):
    def __init__(self, name: str, turn: Callable[[int], None], broken: Callable[[], None]) -> None:
        """`turn` is called with the wake-up descriptor. If it raises, `broken` is called and the
        thread ends."""
        super().__init__(name=name, daemon=True)
        self._turn, self._broken = turn, broken
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopped = False

    def run(self) -> None:
        try:
            while not self._stopped:
                self._turn(self._wake)
                os.eventfd_read(self._wake)
                self._run_jobs()
        except Exception:
            log.exception("esp.pump_broken thread=%s", self.name)
            self._broken()

    def _run_jobs(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._jobs.get_nowait()()

    def do(self, function: Callable[[], T]) -> T:
        """Runs a function between two turns and gives its result. Blocks until the current turn
        ends."""
        future: Future[T] = Future()

        def job() -> None:
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

        self._jobs.put(job)
        os.eventfd_write(self._wake, 1)
        return future.result(_PATIENCE)

    def stop(self) -> None:
        """Ends the thread and waits for its end."""
        self._stopped = True
        os.eventfd_write(self._wake, 1)
        self.join()
        os.close(self._wake)


class PythonTurn:
    """Both directions in Python, on one thread: two threads would only wait for each other's
    interpreter lock."""

    def __init__(
        self, sealer: Sealer, opener: Opener, tap: int, raw: socket.socket, low: int
    ) -> None:
        """`tap` has no offload header. `low`: an eventfd, written when an association is short of
        numbers."""
        self._sealer, self._opener = sealer, opener
        self._tap, self._raw, self._low = tap, raw, low
        self._ethernet = MAC + MAC + ETHERTYPE_IPV4

    def __call__(self, wake: int) -> None:
        ready = select.poll()
        for fd in (self._tap, self._raw.fileno(), wake):
            ready.register(fd, select.POLLIN)
        while True:
            found = [fd for fd, _ in ready.poll()]
            if self._tap in found:
                self._seal_waiting()
            if self._raw.fileno() in found:
                self._open_waiting()
            if wake in found:
                return

    def _seal_waiting(self) -> None:
        for _ in range(_BUDGET):
            try:
                frame = os.read(self._tap, ETHERNET + _LARGEST)
            except BlockingIOError:
                break
            sealed = self._sealer.seal(
                frame[ETHERNET:] if frame[12:ETHERNET] == ETHERTYPE_IPV4 else b""
            )
            if sealed is not None:
                self._send(sealed)
        if self._sealer.asks:
            self._sealer.asks = False
            os.eventfd_write(self._low, 1)

    def _send(self, sealed: Sealed) -> None:
        """Sends a packet. A packet that the kernel does not take at once is lost, as on any wire,
        so that none waits for a peer."""
        try:
            self._raw.sendto(sealed.packet, (str(sealed.destination), 0))
        except OSError:
            self._sealer.counts["lost"] += 1
        else:
            self._sealer.counts["sealed"] += 1

    def _open_waiting(self) -> None:
        for _ in range(_BUDGET):
            try:
                packet = self._raw.recv(_LARGEST)
            except BlockingIOError:
                return
            opened = self._opener.open(packet)
            if opened is not None:
                self._give(opened)

    def _give(self, opened: bytes) -> None:
        try:
            os.write(self._tap, self._ethernet + opened)
        except OSError:
            self._opener.counts["lost"] += 1
        else:
            self._opener.counts["opened"] += 1
