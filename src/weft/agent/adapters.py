"""The outside world of an agent, by what it is for: what `swarm_node.py` chooses for a real node
and the tests for a simulated one.

What a node is without a swarm is not in here: see `engine/adapters.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from weft.engine.adapters import Origin
from weft.errors import Unavailable
from weft.model.ids import NodeId
from weft.model.node import NodeDescription, Role
from weft.session.base import Connect, Echo, LogSink, Publish
from weft.session.identity import Credentials, CredentialSource

ManagersChanged = Callable[[tuple[tuple[NodeId, str], ...]], None]
"""Given id and `host:port` of each."""


def _nobody(managers: tuple[tuple[NodeId, str], ...]) -> None:
    """Nobody wants to know."""


def _any_epoch(epoch: int) -> None:
    """Every one will do."""


def _first_epoch() -> int:
    return 0


def _nothing(credentials: Credentials, role: Role) -> None:
    """Nobody wants to know."""


async def _nowhere(manager: str, subscription: str) -> LogSink:
    raise Unavailable(
        f"cannot publish logs to manager {manager}: this node has no connections but its session"
    )


@dataclass(frozen=True, kw_only=True)
class ManagerAdapters:
    """How managers are reached, and which of them."""

    connect: Connect
    changed: ManagersChanged = _nobody
    """The managers named by the last one reached, to be kept for reconnecting."""
    publish: Publish = _nowhere
    """Connections for logs."""
    open_echo: Callable[[], Echo] | None = None
    """How the manager's host is asked whether it is there; None where it cannot be."""
    epoch: Callable[[], int] = _first_epoch
    """The latest of the cluster that is known here."""
    check_epoch: Callable[[int], None] = _any_epoch
    """Of a manager that welcomes this node, to be kept if it is a later one. Raises `SessionClosed`
    if it is an earlier one."""


@dataclass(frozen=True, kw_only=True)
class CertificateAdapters:
    """The node's certificate, which the agent renews."""

    credential_source: CredentialSource
    advertise_address: str
    """Where managers find this node."""
    changed: Callable[[Credentials, Role], None] = _nothing
    """There is a new certificate, or another root; the role is the certificate's."""


@dataclass(frozen=True, kw_only=True)
class Adapters:
    managers: ManagerAdapters
    description: Callable[[], NodeDescription]
    origin: Origin
    routes: Callable[[], tuple[str, ...]] = tuple
    """Subnets that this host has routes to."""
    certificate: CertificateAdapters | None = None
    """None where sessions do without."""
