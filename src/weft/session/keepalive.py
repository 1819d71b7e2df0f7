"""A connection to a host that is gone ends within seconds. Both kernels see to that: nothing runs
in either daemon for it, and one that is stopped is not taken for dead, since its kernel answers.

A host that loses its power says goodbye to nobody. Without this its sessions would seem to live
until their silence is noticed. There is no limit for what was sent and not acknowledged
(TCP_USER_TIMEOUT): it would also end a session whose other side is too busy to read for a few
seconds.
"""

import socket
from typing import Any

IDLE, INTERVAL, PROBES = 1, 1, 2
"""Seconds of silence until the first question, and between two; how many are in vain."""


def watch(connection: socket.socket) -> None:
    """A listening socket hands it on to the connections that it accepts."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, IDLE),
        (socket.TCP_KEEPINTVL, INTERVAL),
        (socket.TCP_KEEPCNT, PROBES),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def watched_socket(address: Any) -> socket.socket:
    """For `aiohttp.TCPConnector(socket_factory=…)`: `address` is of `socket.getaddrinfo`."""
    family, kind, protocol, *_ = address
    connection = socket.socket(family, kind, protocol)
    watch(connection)
    return connection
