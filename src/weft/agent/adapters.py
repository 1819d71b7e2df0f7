"""The outside world of an agent, as one list: what `node.py` chooses for a real host and the tests for a simulated one."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from weft.engine.adapters import NAMESPACES, HostResolver, OpenResolver, OpenSocket
from weft.engine.network import FlushFlows
from weft.errors import Unavailable
from weft.linux.base import EspEngine, Kernel
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import NodeDescription, Role
from weft.network.flows import Stale
from weft.runtime.base import Images, Runtime
from weft.session.base import Connect, Echo, LogSink, Publish
from weft.session.identity import Credentials, Wallet


def _nobody(managers: tuple[tuple[NodeId, str], ...]) -> None:
    """Nobody wants to know."""


def _any_epoch(epoch: int) -> None:
    """Every one will do."""


def _first_epoch() -> int:
    return 0


def _nothing(credentials: Credentials, role: Role) -> None:
    """Nobody wants to know."""


async def _nowhere(manager: str, subscription: str) -> LogSink:
    raise Unavailable(f"cannot publish logs to manager {manager}: this node has no connections but its session")


def _no_resolver() -> HostResolver:
    return HostResolver()


async def _open_here(inside: Path | None, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """Where there is one namespace."""
    made = socket.socket(family, kind)
    made.setblocking(False)
    return made


async def _no_flows(namespace: str, flows: frozenset[Stale]) -> None:
    """Nothing is remembered."""


@dataclass(frozen=True, kw_only=True)
class Adapters:
    kernel: Kernel
    runtime: Runtime
    images: Images
    connect: Connect
    clock: Callable[[], Nanoseconds]
    """Now, in nanoseconds since 1970."""
    entropy: Callable[[int], bytes]
    """That many random bytes."""
    description: Callable[[], NodeDescription]
    routes: Callable[[], tuple[str, ...]]
    """Subnets that this host has routes to."""
    open_resolver: OpenResolver
    open_socket: OpenSocket = field(default=_open_here)
    host_resolver: Callable[[], HostResolver] = field(default=_no_resolver)
    """Read each time: DHCP may change it."""
    managers_changed: Callable[[tuple[tuple[NodeId, str], ...]], None] = field(default=_nobody)
    """The managers named by the last one reached, to be kept for reconnecting."""
    publish: Publish = field(default=_nowhere)
    """Connections for logs."""
    epoch: Callable[[], int] = field(default=_first_epoch)
    """The latest of the cluster that is known here."""
    check_epoch: Callable[[int], None] = field(default=_any_epoch)
    """Of a manager that welcomes this node, to be kept if it is a later one. Raises `SessionClosed` if it is an earlier one."""
    wallet: Wallet | None = None
    """The node's certificate, which the agent renews; None where sessions do without."""
    advertise_address: str = ""
    """Where managers find this node."""
    credentials_changed: Callable[[Credentials, Role], None] = field(default=_nothing)
    """There is a new certificate in the wallet, or another root; the role is the certificate's."""
    open_echo: Callable[[], Echo] | None = None
    """How the manager's host is asked whether it is there; None where it cannot be."""
    flush_flows: FlushFlows = field(default=_no_flows)
    """Forgets these flows, as far as they could find another way (`linux/conntrack.py`), in the namespace of that
    name (`kernel_state.HOST` is the host's); a namespace that is gone is fine. Raises `OperationFailed`."""
    esp: EspEngine | None = None
    """What seals encrypted networks."""
    no_esp: str = "this node has no ESP engine"
    """What is missing, if there is none."""
    namespaces: Path = NAMESPACES
    """Where namespaces are as files."""
