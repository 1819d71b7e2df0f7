"""The adapters of an agent, grouped by purpose: `swarm_node.py` chooses them for a real node, the
tests for a simulated one.

The adapters that a node needs without a swarm are in `engine/adapters.py`."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from weft.engine.adapters import Origin
from weft.errors import Unavailable
from weft.model.attached import AttachmentGrant
from weft.model.certificate import ManagerCertificate
from weft.model.finding import Finding
from weft.model.ids import NodeId
from weft.model.node import NodeDescription, Role
from weft.session.base import AttachmentRequest, Connect, Echo, OpenStream, StreamSink
from weft.session.identity import Credentials, CredentialSource

ManagersChanged = Callable[[tuple[tuple[NodeId, str], ...]], None]
"""Called with the id and `host:port` of each manager."""


def _nobody(managers: tuple[tuple[NodeId, str], ...]) -> None:
    """Ignores the managers."""


def _any_epoch(epoch: int) -> None:
    """Accepts every epoch."""


def _first_epoch() -> int:
    return 0


def _nothing(credentials: Credentials, role: Role) -> None:
    """Ignores the new credentials."""


async def _nowhere(manager: str, subscription: str) -> StreamSink:
    raise Unavailable(
        f"cannot publish to manager {manager}: this node has no connections but its session"
    )


class Revoked(Protocol):
    """See `session.revocations.Revocations`."""

    def learn(self, certificates: Iterable[ManagerCertificate], /) -> None: ...

    async def revoked(self, serial: str, /) -> None: ...


@dataclass(frozen=True, kw_only=True)
class RevocationAdapters:
    """Which managers' certificates were revoked."""

    revocations: Revoked
    ask: Callable[[str], Awaitable[Iterable[ManagerCertificate]]]
    """Asks the manager at `host:port`. Raises `WeftError`."""
    managers: Callable[[], Sequence[str]]
    """`host:port` of each other manager, as the last manager named them."""


async def _no_attachment(request: AttachmentRequest) -> AttachmentGrant:
    raise Unavailable("this node has no connections but its session")


ExamineHost = Callable[[], Awaitable[Sequence[Finding]]]


async def nothing_wrong() -> Sequence[Finding]:
    return ()


@dataclass(frozen=True, kw_only=True)
class ManagerAdapters:
    """How the agent reaches managers, and which managers."""

    connect: Connect
    changed: ManagersChanged = _nobody
    """Called with the managers that the last manager named, to be kept for reconnecting."""
    open_stream: OpenStream = _nowhere
    """Opens connections for streams."""
    attach: Callable[[AttachmentRequest], Awaitable[AttachmentGrant]] = _no_attachment
    """Asks the managers for a place of one of this node's own containers on a network."""
    open_echo: Callable[[], Echo] | None = None
    """How the manager's host is monitored; None where it cannot be."""
    revocations: RevocationAdapters | None = None
    """None where sessions use no certificates."""
    epoch: Callable[[], int] = _first_epoch
    """Gives the latest epoch of the cluster that this node knows."""
    check_epoch: Callable[[int], None] = _any_epoch
    """Called with the epoch of a manager that welcomes this node: keeps a later one, and raises
    `SessionClosed` for an earlier one."""


@dataclass(frozen=True, kw_only=True)
class CertificateAdapters:
    """The node's certificate, which the agent renews."""

    credential_source: CredentialSource
    advertise_address: str
    """The address at which managers reach this node."""
    changed: Callable[[Credentials, Role], None] = _nothing
    """Called for a new certificate or another root; the role is the certificate's."""


@dataclass(frozen=True, kw_only=True)
class Adapters:
    managers: ManagerAdapters
    description: Callable[[], NodeDescription]
    origin: Origin
    routes: Callable[[], tuple[str, ...]] = tuple
    """Subnets that this host has routes to."""
    examine_host: ExamineHost = nothing_wrong
    """Looks for what is wrong with the host itself."""
    certificate: CertificateAdapters | None = None
    """None where sessions use no certificates."""
