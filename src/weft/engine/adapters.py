"""The adapters of the engine, grouped by purpose: `node.py` chooses them for a real host, the tests
for a simulated one."""

import socket
import typing
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import msgspec

from weft.errors import OperationFailed
from weft.linux.base import ConnectionWatch, EspEngine, Kernel, PacketTap
from weft.model.addresses import Address, MacAddress, Port, Protocol
from weft.model.capture import Instruction
from weft.model.flows import TrackedTable
from weft.model.meta import Nanoseconds
from weft.model.top import TcpCounts
from weft.network.flows import Stale
from weft.network.kernel_state import HOST
from weft.runtime.base import Images, Runtime, Volumes

NAMESPACES = Path("/run/docker/netns")


class HostResolver(msgspec.Struct, frozen=True):
    """The content of the host's own /etc/resolv.conf."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


OpenSocket = Callable[
    [Path | None, socket.AddressFamily, socket.SocketKind], Awaitable[socket.socket]
]
"""(namespace file, family, kind) -> a non-blocking socket in that namespace, or in the host's own
(None). Raises `OperationFailed`."""
OpenResolver = Callable[[Path, IPv4Address, Port], Awaitable[tuple[socket.socket, socket.socket]]]
"""(namespace file, address, port) -> the bound UDP socket and the listening TCP socket, both inside
that namespace and non-blocking. Raises `OperationFailed`."""

FlushFlows = Callable[[str, frozenset[Stale]], Awaitable[None]]
"""Makes the kernel forget these flows, as far as they could take another path
(`linux/conntrack.py`), in the namespace of that name (`kernel_state.HOST` is the host's). A missing
namespace is no error. Raises `OperationFailed`."""


Accepted = Callable[[int], int]
"""How many TCP connections have been accepted so far in the network namespace of the process with
that id; 0 if there is no such process."""

Probe = Callable[
    [str, Collection[tuple[IPv4Address, int]], float],
    Awaitable[Collection[tuple[IPv4Address, int]]],
]
"""(name of a namespace, addresses with sizes of packets in bytes, seconds) -> those that were
answered in that time by a packet of that size which may not be split. None in a namespace that does
not exist."""

RoundTrips = Callable[[Collection[IPv4Address], float], Awaitable[Mapping[IPv4Address, float]]]
"""(addresses of hosts, seconds) -> the seconds until each has answered, without those that did not
answer in that time. Raises `OperationFailed`."""

CountTcp = Callable[[int], TcpCounts]
"""What was counted so far in the network namespace of the process with that id; zeros if there is no
such process."""

Rivals = Callable[[IPv4Address, float], Awaitable[Collection[MacAddress]]]
"""(an address of this host, seconds) -> the MACs of other hosts that say it is theirs. Raises
`WeftError`."""

CheckPort = Callable[[Protocol, Port, Address | None], None]
"""Raises `OperationFailed` if a program of the host has the port, on that address or on any of IPv4
(None) or IPv6 (`::`)."""

OpenTap = Callable[[Path | None, str, Sequence[Instruction], int], Awaitable[PacketTap]]
"""(namespace file, interface, filter, bytes of memory) -> the packets of the interface. Raises
`OperationFailed`."""

ReadConnections = Callable[[Path | None, int], Awaitable[TrackedTable]]
"""(namespace file, or None for the host's; how many at most, about) -> the connections that are
tracked there. Raises `OperationFailed`."""
WatchConnections = Callable[[Path | None], Awaitable[ConnectionWatch]]
"""(namespace file, or None for the host's) -> their changes. Raises `OperationFailed`."""


async def _nothing_tracked(namespace: Path | None, most: int) -> TrackedTable:
    """There are no connections."""
    return TrackedTable((), True, True)


async def _no_watch(namespace: Path | None) -> ConnectionWatch:
    raise OperationFailed("cannot watch connections: this node tracks none")


class Sender(typing.Protocol):
    """Sends packets that have their own IP headers."""

    def send(self, packet: bytes, destination: IPv4Address) -> None:
        """Raises `OperationFailed` if the kernel does not send it."""
        ...

    def close(self) -> None: ...


OpenSender = Callable[[Path | None], Awaitable[Sender]]
"""(namespace file) -> sends from there; None: from the host's. Raises `OperationFailed`."""


async def _no_sender(namespace: Path | None) -> Sender:
    raise OperationFailed("cannot send packets: this node has no kernel")


async def _no_tap(
    namespace: Path | None, device: str, program: Sequence[Instruction], memory: int
) -> PacketTap:
    raise OperationFailed(f"cannot watch interface {device}: this node has no packets")


def _no_uplink(address: IPv4Address) -> str:
    raise OperationFailed("cannot watch the underlay: this node has none")


async def _open_here(
    inside: Path | None, family: socket.AddressFamily, kind: socket.SocketKind
) -> socket.socket:
    """Opens a socket where there is only one namespace."""
    made = socket.socket(family, kind)
    made.setblocking(False)
    return made


async def _no_flows(namespace: str, flows: frozenset[Stale]) -> None:
    """Does nothing: no flows are remembered."""


def _none_accepted(pid: int) -> int:
    """There are no connections."""
    return 0


def _no_tcp(pid: int) -> TcpCounts:
    """There are no connections."""
    return TcpCounts()


async def _no_ways(
    addresses: Collection[IPv4Address], seconds: float
) -> Mapping[IPv4Address, float]:
    """There is nothing between hosts."""
    return dict.fromkeys(addresses, 0.0)


async def _no_rivals(address: IPv4Address, seconds: float) -> Collection[MacAddress]:
    """Where no other host could have the address."""
    return ()


async def _all_answer(
    namespace: str, asked: Collection[tuple[IPv4Address, int]], seconds: float
) -> Collection[tuple[IPv4Address, int]]:
    """Where there is nothing between hosts."""
    return asked


def _no_programs(protocol: Protocol, port: Port, address: Address | None) -> None:
    """Raises nothing: no other programs run."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Time and randomness."""

    clock: Callable[[], Nanoseconds]
    """Now, in nanoseconds since 1970."""
    entropy: Callable[[int], bytes]
    """Gives that many random bytes."""


@dataclass(frozen=True, kw_only=True)
class NameAdapters:
    """The adapters that resolve names in sandboxes."""

    open_resolver: OpenResolver
    open_socket: OpenSocket = _open_here
    host_resolver: Callable[[], HostResolver] = HostResolver
    """Called for each use: DHCP may change the host's servers."""


@dataclass(frozen=True, kw_only=True)
class NetworkAdapters:
    """The adapters that connect sandboxes."""

    kernel: Kernel
    names: NameAdapters
    flush_flows: FlushFlows = _no_flows
    check_port: CheckPort = _no_programs
    accepted: Accepted = _none_accepted
    open_tap: OpenTap = _no_tap
    open_sender: OpenSender = _no_sender
    read_connections: ReadConnections = _nothing_tracked
    watch_connections: WatchConnections = _no_watch
    uplink: Callable[[IPv4Address], str] = _no_uplink
    """Name of the host's interface with the address. Raises `WeftError`."""
    probe: Probe = _all_answer
    round_trips: RoundTrips = _no_ways
    count_tcp: CountTcp = _no_tcp
    rivals: Rivals = _no_rivals
    esp: EspEngine | None = None
    """Encrypts the traffic of encrypted networks."""
    no_esp: str = "this node has no ESP engine"
    """The reason, if there is no ESP engine."""
    namespaces: Path = NAMESPACES
    """The directory of the namespace files."""
    routes: Callable[[], Sequence[IPv4Network]] = tuple
    """Subnets that this host has routes to."""
    ipv6_routes: Callable[[], Sequence[IPv6Network]] = tuple
    """As `routes`."""
    foreign_links: Callable[[], Collection[str]] = tuple
    """Names of the host's interfaces that are not Weft's."""
    records: Path | None = None
    """A directory for the node's own networks, which survives a reboot; None: nothing is kept."""

    def file(self, namespace: str) -> Path | None:
        """The file of a namespace; None for the host's."""
        return self.namespaces / namespace if namespace != HOST else None


@dataclass(frozen=True, kw_only=True)
class EngineAdapters:
    runtime: Runtime
    images: Images
    volumes: Volumes
    network: NetworkAdapters
    origin: Origin
    health_records: Path | None = None
    """A directory for the results of health checks, which survives a reboot; None: no daemon finds
    those of the last one."""
