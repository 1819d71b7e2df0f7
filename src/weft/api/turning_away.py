"""The answer for clients of a daemon that cannot start.

Where the service manager holds the socket, clients wait there for the daemon. If the daemon ends
without an answer they wait on, and each of them makes the service manager start it again. So a
daemon that cannot serve tells them why, and they end: `docker` prints the reason.
"""

import socket
from collections.abc import Iterable

import msgspec

_PATIENCE = 0.2
"""Seconds for a client that has connected to say what it wants; it has had the daemon's start for
that already."""
_REQUEST = 1 << 16


def turn_away(listeners: Iterable[socket.socket], reason: str) -> int:
    """Answers every client that waits now, and gives their number. `listeners` do not block."""
    body = msgspec.json.encode({"message": reason})
    head = (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    answered = 0
    for listener in listeners:
        while (client := _next(listener)) is not None:
            with client:
                _answer(client, head, body)
            answered += 1
    return answered


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
