"""TCP keepalive: a connection to a host that is gone ends within seconds. Both kernels see to that:
no daemon runs anything for it, and a stopped daemon is not taken for dead, since its kernel
answers.

A host that loses its power closes no connection. Without keepalive its sessions would seem to live
until their silence is noticed. There is no limit for unacknowledged data (TCP_USER_TIMEOUT): such a
limit would also end a session whose other side is too busy to read for a few seconds.
"""

import socket
from typing import Any

IDLE, INTERVAL, PROBES = 1, 1, 2
"""Seconds of silence until the first probe, seconds between two probes, and unanswered probes until
the end."""


def watch(connection: socket.socket) -> None:
    """Accepted connections inherit this from a listening socket."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, IDLE),
        (socket.TCP_KEEPINTVL, INTERVAL),
        (socket.TCP_KEEPCNT, PROBES),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def watched_socket(address: Any) -> socket.socket:
    """For `aiohttp.TCPConnector(socket_factory=…)`: `address` is an entry of
    `socket.getaddrinfo`."""
    family, kind, protocol, *_ = address
    connection = socket.socket(family, kind, protocol)
    watch(connection)
    return connection
