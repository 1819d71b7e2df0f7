"""What the engine needs of its host beside the kernel and the runtime."""

import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from weft.model.addresses import Port

NAMESPACES = Path("/run/docker/netns")


class HostResolver(msgspec.Struct, frozen=True):
    """What the host's own /etc/resolv.conf says."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


OpenSocket = Callable[[Path | None, socket.AddressFamily, socket.SocketKind], Awaitable[socket.socket]]
"""(namespace file, family, kind) -> a socket in that namespace, or in the host's own (None), non-blocking. Raises
`OperationFailed`."""
OpenResolver = Callable[[Path, IPv4Address, Port], Awaitable[tuple[socket.socket, socket.socket]]]
"""(namespace file, address, port) -> the bound UDP socket and the listening TCP socket, both inside that namespace and
non-blocking. Raises `OperationFailed`."""
