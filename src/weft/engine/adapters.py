"""The outside world of the engine, by what it is for: what `node.py` chooses for a real host and
the tests for a simulated one."""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from weft.linux.base import EspEngine, Kernel
from weft.model.addresses import Port
from weft.model.meta import Nanoseconds
from weft.network.flows import Stale
from weft.runtime.base import Images, Runtime

NAMESPACES = Path("/run/docker/netns")


class HostResolver(msgspec.Struct, frozen=True):
    """What the host's own /etc/resolv.conf says."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


OpenSocket = Callable[
    [Path | None, socket.AddressFamily, socket.SocketKind], Awaitable[socket.socket]
]
"""(namespace file, family, kind) -> a socket in that namespace, or in the host's own (None),
non-blocking. Raises `OperationFailed`."""
OpenResolver = Callable[[Path, IPv4Address, Port], Awaitable[tuple[socket.socket, socket.socket]]]
"""(namespace file, address, port) -> the bound UDP socket and the listening TCP socket, both inside
that namespace and non-blocking. Raises `OperationFailed`."""

FlushFlows = Callable[[str, frozenset[Stale]], Awaitable[None]]
"""Forgets these flows, as far as they could find another way (`linux/conntrack.py`), in the
namespace of that name (`kernel_state.HOST` is the host's); a namespace that is gone is fine. Raises
`OperationFailed`."""


async def _open_here(
    inside: Path | None, family: socket.AddressFamily, kind: socket.SocketKind
) -> socket.socket:
    """Where there is one namespace."""
    made = socket.socket(family, kind)
    made.setblocking(False)
    return made


async def _no_flows(namespace: str, flows: frozenset[Stale]) -> None:
    """Nothing is remembered."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Time and chance."""

    clock: Callable[[], Nanoseconds]
    """Now, in nanoseconds since 1970."""
    entropy: Callable[[int], bytes]
    """That many random bytes."""


@dataclass(frozen=True, kw_only=True)
class NameAdapters:
    """What answers for names in sandboxes."""

    open_resolver: OpenResolver
    open_socket: OpenSocket = _open_here
    host_resolver: Callable[[], HostResolver] = HostResolver
    """Read each time: DHCP may change it."""


@dataclass(frozen=True, kw_only=True)
class NetworkAdapters:
    """What connects sandboxes."""

    kernel: Kernel
    names: NameAdapters
    flush_flows: FlushFlows = _no_flows
    esp: EspEngine | None = None
    """What seals encrypted networks."""
    no_esp: str = "this node has no ESP engine"
    """What is missing, if there is none."""
    namespaces: Path = NAMESPACES
    """Where namespaces are as files."""


@dataclass(frozen=True, kw_only=True)
class EngineAdapters:
    runtime: Runtime
    images: Images
    network: NetworkAdapters
    origin: Origin
