"""What goes over a session, as tagged MessagePack. First the agent's `Hello`, then the manager's
`Welcome`, then both as they like.

A message of a kind that the other side does not know ends the session: a new kind is only sent to
those that said they know it. Beside the session an agent may open connections on which it publishes
logs: `LogLines` until `LogsEnd`.
"""

import msgspec

from weft.model.assignment import AssignmentChange
from weft.model.container import LogLine
from weft.model.ids import NodeId, TaskId
from weft.model.logs import LogsWanted
from weft.model.meta import Nanoseconds
from weft.model.node import NodeDescription
from weft.model.task import TaskStatus

MAX_FROM_MANAGER = 64 << 20
"""Bytes. An assignment with 100,000 endpoints has about 10 MB."""
MAX_FROM_AGENT = 4 << 20
"""Bytes. What a manager must be ready to hold for each of a thousand agents: one report of
`MAX_STATUSES`, of 2 kB each."""
MAX_REPORT = 2 << 20
"""Bytes of texts in one report: an agent sends fewer statuses if those are long."""
MAX_STATUSES = 2_000
"""In one `StatusUpdate`. Docker Swarm's limit is 10,000, in no particular size."""
MAX_ROUTES = 1000
"""In a `Hello`."""
MAX_LOG_LINES = 256 << 10
"""Bytes of one `LogLines`. Publishers stay far below: it is what a manager must be ready to hold
for each of them."""


class Hello(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """From the agent, once."""

    node: NodeId
    description: NodeDescription
    data_path_address: str
    routes: tuple[str, ...] = ()
    """Subnets that this host has routes to, docker_gwbridge's first, so that no overlay is laid
    over them; at most `MAX_ROUTES`."""
    underlay_mtu: int = 0
    """Of the interface with the data path address; 0: it does not say."""
    trusted: str = ""
    """`pki.certificate.fingerprint` of the root certificate that it trusts."""
    epoch: int = 0
    """The latest of the cluster that it was told of."""
    ended: tuple[tuple[TaskId, TaskStatus], ...] = ()
    """Tasks that are over, at most `MAX_STATUSES`: a host that has rebooted is not asked for what
    it lost when it is ready again."""
    publishes_logs: bool = False
    """It knows `PublishLogs`."""


class Welcome(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    heartbeat: Nanoseconds
    """The agent sends a `Heartbeat` at least this often."""
    managers: tuple[tuple[NodeId, str], ...]
    """(id, host:port), to be kept on disk for reconnecting."""
    epoch: int = 0
    """Of the cluster. If the agent knows a later one, this is a manager that the swarm has gone on
    without."""


class Epoch(msgspec.Struct, frozen=True, tag=True):
    """From a manager to another one, which is not among its own any more or never was."""

    epoch: int
    """Of the cluster."""


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """From the agent, and back from the manager: a host that lost its power closes no
    connection."""


class StatusUpdate(msgspec.Struct, frozen=True, tag=True):
    """From the agent. Repeated until `StatusAccepted` with the same number."""

    number: int
    statuses: tuple[tuple[TaskId, TaskStatus], ...]


class StatusAccepted(msgspec.Struct, frozen=True, tag=True):
    """From the manager: committed."""

    number: int


class AssignmentUpdate(msgspec.Struct, frozen=True, tag=True):
    """From the manager. The first of a session is full."""

    change: AssignmentChange


class Managers(msgspec.Struct, frozen=True, tag=True):
    """From the manager: others than its `Welcome` said."""

    managers: tuple[tuple[NodeId, str], ...]


class Renew(msgspec.Struct, frozen=True, tag=True):
    """From the manager: ask for a new certificate now, because the node's role or the root has
    changed."""

    reason: str


class CertificateRequest(msgspec.Struct, frozen=True, tag=True):
    """From the agent, when its certificate is due or the manager said `Renew`."""

    csr: str
    """PEM; only its public key is used."""
    address: str = ""
    """The address that it advertises. A manager's certificate is good for it, so that other
    managers' stores can verify it."""


class IssuedCertificate(msgspec.Struct, frozen=True, tag=True):
    """From the manager."""

    chain: str
    """PEM: the node's certificate; during a rotation of the root also the cross-signed one."""


class Trust(msgspec.Struct, frozen=True, tag=True):
    """From the manager: the root certificate (PEM) to trust from now on, in place of the former."""

    root: str


class PublishLogs(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """From the manager: open a connection to a manager, which need not be this one, and publish
    logs there."""

    subscription: str
    manager: str
    """`host:port`"""
    wanted: LogsWanted
    seen: tuple[tuple[TaskId, tuple[Nanoseconds, int]], ...] = ()
    """`model.logs.Seen` of what came before: only what follows is wanted."""


class LogLines(msgspec.Struct, frozen=True, tag=True):
    """From the publisher."""

    lines: tuple[tuple[TaskId, LogLine], ...]


class LogsEnd(msgspec.Struct, frozen=True, tag=True):
    """From the publisher, at the end of what was wanted."""

    errors: tuple[str, ...] = ()
    """What could not be read."""


class Goodbye(msgspec.Struct, frozen=True, tag=True):
    """From either side: why it ends the session."""

    reason: str


FromAgent = Hello | Heartbeat | StatusUpdate | CertificateRequest | Goodbye
FromManager = (
    Welcome
    | Heartbeat
    | StatusAccepted
    | AssignmentUpdate
    | Managers
    | Renew
    | IssuedCertificate
    | Trust
    | PublishLogs
    | Goodbye
)
FromPublisher = LogLines | LogsEnd
