"""Interfaces of sessions and admission, for the manager and the agent; `session/server.py` and
`session/client.py` implement them."""

from ipaddress import IPv4Address
from typing import Protocol

import msgspec

from weft.errors import Unavailable
from weft.model.attached import AttachmentGrant, AttachmentWanted
from weft.model.certificate import ManagerCertificate
from weft.model.ids import ClusterId, NodeId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.node import Availability, Role
from weft.model.task import TaskStatus
from weft.pki.sealing import SealingKey
from weft.session.messages import FromAgent, FromManager, FromPublisher, Publish, Revoked


class SessionClosed(Unavailable):
    """The other side is gone; the message says why if the reason is known."""


class Identity(msgspec.Struct, frozen=True):
    """The node at the other end, from its certificate."""

    node: NodeId
    role: Role
    cluster: ClusterId
    issuer: str = ""
    """The signer of the certificate: `pki.certificate.signer_id` of a root."""
    serial: str = ""
    """The certificate's serial number, as in `model.certificate`."""
    expires: Nanoseconds = 0


class ManagerSession(Protocol):
    """The manager's end of a session with an agent."""

    peer: Identity
    address: str
    """IP address of the session's other end."""

    async def send(self, message: FromManager) -> None:
        """Waits while the other side is slow. Raises `SessionClosed`."""
        ...

    async def receive(self) -> FromAgent:
        """Raises `SessionClosed`."""
        ...

    async def close(self, reason: str) -> None: ...


class AgentSession(Protocol):
    """The agent's end of a session."""

    address: str
    """IP address or name of the manager's host."""
    serial: str
    """Serial number of the manager's certificate, as in `model.certificate`; empty where sessions
    use no certificates."""

    async def send(self, message: FromAgent) -> None: ...

    async def receive(self) -> FromManager: ...

    async def close(self, reason: str) -> None: ...


class Connect(Protocol):
    """Opens an agent's session: tries the known managers one after the other, once each."""

    async def __call__(self) -> AgentSession:
        """Raises `Unavailable` if no manager answers, `Forbidden` if this node is no longer part of
        the swarm."""
        ...


class StreamSource(Protocol):
    """The manager's end of a connection on which an agent publishes a stream."""

    peer: Identity

    async def receive(self) -> FromPublisher:
        """The agent waits while nobody calls this. Raises `SessionClosed`."""
        ...


class StreamSink(Protocol):
    """The agent's end of a connection on which it publishes a stream."""

    async def send(self, message: FromPublisher) -> None:
        """Waits while the manager is slow. Raises `SessionClosed`."""
        ...

    async def closed(self) -> None:
        """Returns when the manager wants no more frames."""
        ...

    async def close(self) -> None: ...


class OpenStream(Protocol):
    """Opens a connection on which an agent publishes a stream."""

    async def __call__(self, manager: str, subscription: str, /) -> StreamSink:
        """Connects to the manager at `host:port`. Raises `Unavailable`, or `Forbidden` if there is
        no such subscription for this node."""
        ...


class PublishRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One manager asks another to pass `publish` on to a node that has its session there."""

    node: NodeId
    publish: Publish


class Relay(Protocol):
    """Sends a request from one manager to another."""

    async def __call__(self, manager: str, request: PublishRequest, /) -> None:
        """Asks the manager at `host:port`. Raises the errors of `Manager.pass_on`, and
        `Unavailable` if the manager does not answer."""
        ...


class AdmissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    csr: str
    """PEM certificate request; only its public key is used."""
    hostname: str
    data_path_address: IPv4Address
    availability: Availability = "active"
    advertise_address: str = ""
    """A manager's certificate is made out to this address as well."""

    def __repr__(self) -> str:
        """Without the token, which is a secret."""
        return f"AdmissionRequest({self.hostname})"


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    role: Role
    certificate: str
    """PEM."""
    root_certificate: str
    cluster: ClusterId
    managers: tuple[tuple[NodeId, str], ...]


class MemberRequest(msgspec.Struct, frozen=True, kw_only=True):
    """From a node with a manager's certificate that is to run an etcd member."""

    peer_url: str
    """`https://address:port` where the node's etcd member will listen for the other members."""
    manager_address: str
    """`host:port` of its session listener."""
    epoch: int = 0
    """The latest epoch of the cluster that the node was told of."""


class MemberGrant(msgspec.Struct, frozen=True, kw_only=True):
    peers: tuple[tuple[str, str], ...]
    """(node id, peer URL) of all members, the new one included."""
    revoked: tuple[ManagerCertificate, ...] = ()
    """Certificates that the new member must refuse from its first moment on."""


class AttachmentRequest(msgspec.Struct, frozen=True, kw_only=True):
    """From a node, for one of its own containers."""

    id: TaskId
    """Chosen by the node; the same when the request is made again."""
    wanted: AttachmentWanted
    ended: tuple[tuple[TaskId, TaskStatus], ...] = ()
    """Places that the node has given up, and whose end no manager may know yet; at most
    `MAX_STATUSES`."""


class SealingKeyGrant(msgspec.Struct, frozen=True):
    """The keys that seal secrets, from one manager to another."""

    keys: tuple[SealingKey, ...]


class Manager(Protocol):
    """The manager behind the session listener, as far as the listener needs it."""

    async def admit(self, request: AdmissionRequest, source: str, /) -> Admitted:
        """Admits a new node; `source` is the IP address of the request. Raises `InvalidArgument`
        for a request that makes no sense, `Forbidden` for a token that is not the cluster's."""
        ...

    def knows(self, address: str) -> bool:
        """Whether the address is a node's IP address: connections from nodes are served before
        those of strangers."""
        ...

    @property
    def is_serving(self) -> bool:
        """Whether this manager can begin sessions now. If it cannot, an agent goes to another
        manager."""
        ...

    @property
    def epoch(self) -> int:
        """The cluster's epoch, as this manager knows it."""
        ...

    async def serve(self, session: ManagerSession) -> None:
        """Serves the session as long as it lasts. Raises `Forbidden` for a node that was
        removed."""
        ...

    async def enlist(self, peer: Identity, request: MemberRequest) -> MemberGrant:
        """Adds the node's etcd member, without a vote yet (a learner). Safe to call again. Raises
        `Forbidden` for a node that is not to be a manager, `FailedPrecondition` while another
        member is being added, and for a node that knows a later epoch."""
        ...

    async def admit_vote(self, peer: Identity) -> None:
        """Gives the member its vote. Safe to call again. Raises `FailedPrecondition` while the
        member has not caught up."""
        ...

    async def revoked(self, peer: Identity) -> Revoked:
        """Raises `Forbidden` if `peer` is not part of the swarm, `Unavailable` if this manager
        cannot serve now."""
        ...

    async def attach(self, peer: Identity, request: AttachmentRequest) -> AttachmentGrant:
        """Gives one of the node's own containers a place on a network. Safe to call again. Raises
        `NotFound` for a network that does not exist, `Forbidden` for one that is not attachable,
        `InvalidArgument` or `Conflict` for an address that cannot be had, `FailedPrecondition` if
        none is left."""
        ...

    async def sealing_keys(self, peer: Identity) -> SealingKeyGrant:
        """Raises `Forbidden` if `peer` is not a manager now."""
        ...

    async def pass_on(self, peer: Identity, request: PublishRequest) -> None:
        """Tells a node that has its session here to publish a stream. Raises `Forbidden` if `peer`
        is not a manager, `FailedPrecondition` if the node has no session here, `InvalidArgument` if
        it cannot publish this kind of stream."""
        ...

    async def take_stream(self, source: StreamSource, subscription: str) -> None:
        """Reads frames until no more are wanted. Raises `Forbidden` unless the subscription exists
        and waits for the peer."""
        ...


class Echo(Protocol):
    """Probes the kernels of other hosts. Neither call blocks."""

    def ask(self, address: IPv4Address) -> bool:
        """Sends a probe. False if this host could not even send it."""
        ...

    def answered(self) -> set[IPv4Address]:
        """The addresses that have answered since the last call."""
        ...

    def close(self) -> None: ...
