"""A client that makes HTTP requests at a steady rate: `open_loop.py RATE ADDRESS:PORT…`, in turn of
all of them, until its standard input ends.

Each request is a connection of its own, made when its time has come, whether or not those before it
were answered, unless `MOST_PENDING` of them were not: then the machine cannot do more, and requests
that pile up would only keep it from answering any. Then one line of JSON
for each request (`Request`) is on the standard output. One thread and epoll: some 100 µs of processor time per request.
"""

import errno
import json
import os
import select
import socket
import sys
import time
from collections import deque
from typing import NamedTuple

PATIENCE = 10.0
"""Seconds."""
MOST_PENDING = 500
"""Half a second's worth at 1,000 a second."""
TOTAL_RETRANSMISSIONS = 100
"""Where struct tcp_info (linux/tcp.h) has them: four bytes."""
ASK = b"GET /ping HTTP/1.0\r\n\r\n"
ANSWER = b"pong\n"


class Request(NamedTuple):
    start: float
    """Seconds, CLOCK_MONOTONIC."""
    late: float
    """Seconds from its time to its start."""
    target: str
    seconds: float
    """Seconds until the whole answer, or the failure."""
    again: int
    """SYNs that were sent again."""
    why: str
    """The reason if there was no answer; otherwise empty."""
    port: int
    """The client's own."""


class Pending:
    """A request that is on its way."""

    __slots__ = ("again", "answer", "due", "is_over", "port", "socket", "start", "target")

    def __init__(self, due: float, target: tuple[str, int]) -> None:
        self.due, self.start, self.target = due, time.monotonic(), target
        self.answer, self.again, self.is_over, self.port = b"", 0, False, 0
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(target)


class Client:
    def __init__(self, rate: float, targets: list[tuple[str, int]]) -> None:
        self._rate, self._targets = rate, targets
        self._poll = select.epoll()
        self._pending: dict[int, Pending] = {}
        self._oldest: deque[Pending] = deque()
        self._done: list[Request] = []

    def run(self) -> list[Request]:
        stdin = sys.stdin.fileno()
        self._poll.register(stdin, select.EPOLLIN | select.EPOLLHUP)
        begun, number, ended = time.monotonic(), 0, False
        while not ended or self._pending:
            now = time.monotonic()
            while not ended and (due := begun + number / self._rate) <= now:
                if len(self._pending) < MOST_PENDING:
                    self._ask(due, self._targets[number % len(self._targets)])
                number += 1
            self._give_up(now - PATIENCE)
            wait = 0.1 if ended else begun + number / self._rate - time.monotonic()
            for descriptor, events in self._poll.poll(max(0.0, wait)):
                if descriptor == stdin:
                    ended = not os.read(stdin, 4096)
                    if ended:
                        self._poll.unregister(stdin)
                elif pending := self._pending.get(descriptor):
                    self._go_on(pending, events)
        return sorted(self._done)

    def _ask(self, due: float, target: tuple[str, int]) -> None:
        pending = Pending(due, target)
        self._pending[pending.socket.fileno()] = pending
        self._oldest.append(pending)
        self._poll.register(pending.socket.fileno(), select.EPOLLOUT)

    def _go_on(self, pending: Pending, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                if code := pending.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(code, os.strerror(code))
                pending.again = self._retransmissions(pending)
                pending.socket.send(ASK)
                self._poll.modify(pending.socket.fileno(), select.EPOLLIN)
                return
            piece = pending.socket.recv(4096)
        except OSError as error:
            self._end(pending, errno.errorcode.get(error.errno or 0, "OSError"))
            return
        pending.answer += piece
        if not piece:
            self._end(pending, "" if pending.answer.endswith(ANSWER) else "half an answer")

    def _give_up(self, before: float) -> None:
        while self._oldest and (self._oldest[0].is_over or self._oldest[0].start < before):
            if not (pending := self._oldest.popleft()).is_over:
                pending.again = self._retransmissions(pending)
                self._end(pending, "no answer")

    def _end(self, pending: Pending, why: str) -> None:
        pending.is_over = True
        took = time.monotonic() - pending.start
        pending.port = pending.socket.getsockname()[1]
        del self._pending[pending.socket.fileno()]
        pending.socket.close()
        late, (address, port) = pending.start - pending.due, pending.target
        self._done.append(
            Request(
                pending.start, late, f"{address}:{port}", took, pending.again, why, pending.port
            )
        )

    @staticmethod
    def _retransmissions(pending: Pending) -> int:
        info = pending.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int.from_bytes(info[TOTAL_RETRANSMISSIONS:], sys.byteorder)


def main(rate: str, *targets: str) -> None:
    split = [target.rpartition(":") for target in targets]
    done = Client(float(rate), [(address, int(port)) for address, _, port in split]).run()
    sys.stdout.writelines(json.dumps(request) + "\n" for request in done)


if __name__ == "__main__":
    main(*sys.argv[1:])
