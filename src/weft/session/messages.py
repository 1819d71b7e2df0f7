"""The messages of a session, as tagged MessagePack. The agent's `Hello` comes first, then the
manager's `Welcome`, then any messages from both.

A message of a kind that the other side does not know ends the session, so a new kind is only sent
to a peer that said it knows the kind. Beside the session an agent may open connections on which it
publishes streams: frames of one kind until `StreamEnd`.
"""

from typing import Literal

import msgspec

from weft.model.assignment import AssignmentChange
from weft.model.capture import CaptureFrame, CaptureWanted
from weft.model.certificate import ManagerCertificate
from weft.model.container import LogLine
from weft.model.engine_state import EngineState
from weft.model.finding import Examination
from weft.model.flows import FlowsFrame
from weft.model.ids import NodeId, TaskId
from weft.model.log_details import Details
from weft.model.logs import LogsWanted
from weft.model.meta import Nanoseconds
from weft.model.node import NodeDescription
from weft.model.probe import ProbeWanted, Sighting
from weft.model.task import TaskStatus
from weft.model.top import TopFrame, TopWanted
from weft.model.trace import Entry, Flow, Passage

MAX_FROM_MANAGER = 64 << 20
"""Bytes. An assignment with 100,000 endpoints has about 10 MB."""
MAX_FROM_AGENT = 4 << 20
"""Bytes that a manager must be ready to hold for each of a thousand agents: one report of
`MAX_STATUSES`, of 2 kB each."""
MAX_REPORT = 2 << 20
"""Bytes of texts in one report: an agent sends fewer statuses if their texts are long."""
MAX_STATUSES = 2_000
"""Statuses in one `StatusUpdate`. Docker Swarm's limit is 10,000, of any size."""
MAX_ROUTES = 1000
"""Routes in a `Hello`."""
MAX_FRAME = 256 << 10
"""Bytes of one frame of a stream. Publishers stay far below: a manager must be ready to hold this
much for each of them."""

MAX_FAILURES = 20
"""Failures that an `EngineStateFrame` names."""


class Hello(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """From the agent, once."""

    node: NodeId
    description: NodeDescription
    data_path_address: str
    routes: tuple[str, ...] = ()
    """Subnets that this host has routes to, docker_gwbridge's first, so that no overlay is laid
    over them; at most `MAX_ROUTES`."""
    underlay_mtu: int = 0
    """MTU of the interface with the data path address; 0: the agent does not say."""
    trusted: str = ""
    """`pki.certificate.fingerprint` of the root certificate that the agent trusts."""
    epoch: int = 0
    """The latest epoch of the cluster that the node was told of."""
    ended: tuple[tuple[TaskId, TaskStatus], ...] = ()
    """Tasks that are over, at most `MAX_STATUSES`. A rebooted host reports lost tasks here, so that
    the manager does not expect them when the node is ready again."""
    publishes: tuple[str, ...] = ()
    """The kinds of streams that the agent publishes (`kind_of`)."""


Farewell = Literal["leaving", "left", "stopping"]
"""What ends for a node.

leaving     the node leaves the swarm for good: give its tasks up, and send nobody there any more
left        it has ended its tasks and reported them: it is down
stopping    its host is being shut down: send nobody there, but keep its tasks
"""


class Welcome(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    heartbeat: Nanoseconds
    """The agent sends a `Heartbeat` at least this often."""
    managers: tuple[tuple[NodeId, str], ...]
    """(id, host:port), to be kept on disk for reconnecting."""
    epoch: int = 0
    """The cluster's epoch. If the agent knows a later epoch, the swarm has gone on without this
    manager."""
    revoked: tuple[ManagerCertificate, ...] = ()
    """See `Revoked`."""
    takes_farewells: bool = False
    """The manager knows `NodeFarewell`."""


class Epoch(msgspec.Struct, frozen=True, tag=True):
    """A manager's answer to another one that is not, or no longer, one of its peers."""

    epoch: int
    """The cluster's epoch."""


class Heartbeat(msgspec.Struct, frozen=True, tag=True):
    """From the agent, and back from the manager: a host that loses its power closes no
    connection."""


class StatusUpdate(msgspec.Struct, frozen=True, tag=True):
    """From the agent. Repeated until `StatusAccepted` with the same number."""

    number: int
    statuses: tuple[tuple[TaskId, TaskStatus], ...]


class StatusAccepted(msgspec.Struct, frozen=True, tag=True):
    """From the manager: the statuses are committed."""

    number: int


class AssignmentUpdate(msgspec.Struct, frozen=True, tag=True):
    """From the manager. The first of a session is full."""

    change: AssignmentChange


class Managers(msgspec.Struct, frozen=True, tag=True):
    """From the manager: the managers are no longer those of its `Welcome`."""

    managers: tuple[tuple[NodeId, str], ...]


class Revoked(msgspec.Struct, frozen=True, tag=True):
    """From the manager: managers' certificates to refuse, no longer those of its `Welcome`; also
    the answer to a node that asks. A node goes on to refuse others that it was told of."""

    certificates: tuple[ManagerCertificate, ...]


class Renew(msgspec.Struct, frozen=True, tag=True):
    """From the manager: ask for a new certificate now, because the node's role or the root has
    changed."""

    reason: str


class CertificateRequest(msgspec.Struct, frozen=True, tag=True):
    """From the agent, when its certificate is due or the manager said `Renew`."""

    csr: str
    """PEM; only its public key is used."""
    address: str = ""
    """The address that the node advertises. A manager's certificate is valid for that address, so
    that other managers' etcd members can verify it."""


class IssuedCertificate(msgspec.Struct, frozen=True, tag=True):
    """From the manager."""

    chain: str
    """PEM: the node's certificate; during a rotation of the root also the cross-signed one."""


class Trust(msgspec.Struct, frozen=True, tag=True):
    """From the manager: the root certificate (PEM) to trust from now on, in place of the former."""

    root: str


class LogsRequest(msgspec.Struct, frozen=True, tag="logs", kw_only=True):
    """Asks for the lines of tasks on the node."""

    wanted: LogsWanted
    seen: tuple[tuple[TaskId, tuple[Nanoseconds, int]], ...] = ()
    """`model.logs.Seen` of the lines received before: only later lines are wanted."""


class EngineStateRequest(msgspec.Struct, frozen=True, tag="engine state"):
    """Asks for the present state of the node's engine, once."""


class CaptureRequest(msgspec.Struct, frozen=True, tag="capture"):
    """Asks for packets of the node's interfaces, without end."""

    wanted: CaptureWanted


class ExaminationRequest(msgspec.Struct, frozen=True, tag="examination"):
    """Asks what is wrong with the node, once."""

    repair: bool = False
    """Mend what differs in the kernel's network first."""


class TraceRequest(msgspec.Struct, frozen=True, tag="trace", kw_only=True):
    """Asks for a packet's way through the node's kernel, once."""

    entry: Entry
    task: TaskId | None = None
    """The task whose process sends the packet, in place of a namespace in `entry`."""
    name: str = ""
    """A name that the task looks up first: the packet goes to the first address."""
    container: str = ""
    """A container of the node's own whose process sends the packet, by name or id."""
    flows: tuple[Flow, ...] = ()
    """As the node told them of the packet that this one answers."""


class ProbeRequest(msgspec.Struct, frozen=True, tag="probe"):
    """Asks to send the packets of a probe, or to watch for them without end."""

    wanted: ProbeWanted


class FlowsRequest(msgspec.Struct, frozen=True, tag="flows"):
    """Asks for the connections that the node tracks, once or without end."""

    follow: bool = False


class TopRequest(msgspec.Struct, frozen=True, tag="top"):
    """Asks for what the node's kernel has counted, twice or without end."""

    wanted: TopWanted


StreamRequest = (
    LogsRequest
    | EngineStateRequest
    | CaptureRequest
    | ExaminationRequest
    | TraceRequest
    | ProbeRequest
    | FlowsRequest
    | TopRequest
)
"""What a stream is to carry. The tag is the stream's kind."""


def kind_of(request: StreamRequest | type[StreamRequest]) -> str:
    return str(request.__struct_config__.tag)


class Publish(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """From the manager, to an agent that knows this kind of stream: open a connection to a manager,
    which need not be this one, and publish a stream there."""

    subscription: str
    manager: str
    """`host:port`"""
    request: StreamRequest


class LogLines(msgspec.Struct, frozen=True, tag=True):
    """A frame that answers `LogsRequest`."""

    lines: tuple[tuple[TaskId, LogLine], ...]
    details: dict[TaskId, Details] = msgspec.field(default_factory=dict)
    """Of the containers of these tasks, as far as they have any."""


class EngineStateFrame(msgspec.Struct, frozen=True, tag=True):
    """The frame that answers `EngineStateRequest`."""

    state: EngineState


class ExaminationFrame(msgspec.Struct, frozen=True, tag=True):
    """The frames that answer `ExaminationRequest`: one at once, and one with what was found."""

    time: Nanoseconds
    """What the node's clock shows."""
    examination: Examination | None = None


class TraceFrame(msgspec.Struct, frozen=True, tag=True):
    """The frame that answers `TraceRequest`."""

    passage: Passage


class ProbeFrame(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The frames that answer `ProbeRequest`: the first one when the packets were sent, or when the
    interfaces are watched."""

    time: Nanoseconds
    """What the node's clock shows; when the first packet was sent."""
    seen: tuple[Sighting, ...] = ()
    failures: tuple[str, ...] = ()
    """Interfaces that are not watched, and why."""


class StreamEnd(msgspec.Struct, frozen=True, tag=True):
    """From the publisher, after its last frame."""

    error: str = ""
    """The part that could not be published, and why."""


class NodeFarewell(msgspec.Struct, frozen=True, tag=True):
    """From the agent, to a manager that takes farewells. After "left" and "stopping" the agent
    begins no other session."""

    farewell: Farewell


class FarewellTaken(msgspec.Struct, frozen=True, tag=True):
    """From the manager: the farewell is committed."""

    farewell: Farewell


class Goodbye(msgspec.Struct, frozen=True, tag=True):
    """From either side: the reason for ending the session."""

    reason: str


FromAgent = Hello | Heartbeat | StatusUpdate | CertificateRequest | NodeFarewell | Goodbye
FromManager = (
    Welcome
    | Heartbeat
    | StatusAccepted
    | AssignmentUpdate
    | Managers
    | Revoked
    | Renew
    | IssuedCertificate
    | Trust
    | FarewellTaken
    | Publish
    | Goodbye
)
Frame = (
    LogLines
    | EngineStateFrame
    | CaptureFrame
    | ExaminationFrame
    | TraceFrame
    | ProbeFrame
    | FlowsFrame
    | TopFrame
)
FromPublisher = Frame | StreamEnd
