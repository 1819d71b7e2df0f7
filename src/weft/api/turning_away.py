"""The answer for clients of a daemon that cannot start.

Where the service manager holds the socket, clients wait there for the daemon. If the daemon ends
without an answer they wait on, and each of them makes the service manager start it again. So a
daemon that cannot serve tells them why, and they end: `docker` prints the reason.
"""

import selectors
import socket
import time
from collections.abc import Iterable

import msgspec

_PATIENCE = 2.0
"""Seconds for a client that has connected to say what it wants."""
_LINGER = 0.5
"""Seconds without a client after which no more are expected: one `docker` command asks three times,
each time on a new connection."""
_LONGEST = 5.0
"""Seconds after which the daemon ends in any case; whoever comes then makes it start again."""
_REQUEST = 1 << 16


def turn_away(listeners: Iterable[socket.socket], reason: str) -> int:
    """Answers every client that waits now, and those that follow at once, and gives their number.
    `listeners` do not block."""
    body = msgspec.json.encode({"message": reason})
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    answered, end = 0, time.monotonic() + _LONGEST
    with selectors.DefaultSelector() as waiting:
        for listener in listeners:
            waiting.register(listener, selectors.EVENT_READ, listener)
        while waiting.get_map() and time.monotonic() < end:
            ready = waiting.select(_LINGER)
            if not ready:
                break
            answered += sum(_answer_next(key.data, head, body) for key, _ in ready)
    return answered


def _answer_next(listener: socket.socket, head: bytes, body: bytes) -> bool:
    """False if nobody waits there."""
    client = _next(listener)
    if client is None:
        return False
    with client:
        _answer(client, head, body)
    return True


def _next(listener: socket.socket) -> socket.socket | None:
    try:
        client, _ = listener.accept()
    except OSError:
        return None
    return client


def _answer(client: socket.socket, head: bytes, body: bytes) -> None:
    """An answer to HEAD has no body (RFC 9110 section 9.3.2)."""
    client.settimeout(_PATIENCE)
    try:
        request = client.recv(_REQUEST)
        client.sendall(head if request.startswith(b"HEAD ") else head + body)
        client.shutdown(socket.SHUT_WR)
    except OSError:
        return
