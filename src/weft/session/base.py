"""Sessions and admission as the manager and the agent see them; `session/server.py` and
`session/client.py` are the real ones."""

from ipaddress import IPv4Address
from typing import Protocol

import msgspec

from weft.errors import Unavailable
from weft.model.certificate import ManagerCertificate
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import Availability, Role
from weft.session.messages import FromAgent, FromManager, FromPublisher, PublishLogs


class SessionClosed(Unavailable):
    """The other side is gone; the message says why if that is known."""


class Identity(msgspec.Struct, frozen=True):
    """Who is at the other end, from its certificate."""

    node: NodeId
    role: Role
    cluster: ClusterId
    issuer: str = ""
    """Who signed the certificate: `pki.certificate.signer_id` of a root."""
    serial: str = ""
    """Of the certificate, as `model.certificate` has it."""
    expires: Nanoseconds = 0


class ManagerSession(Protocol):
    """The manager's end of a session with an agent."""

    peer: Identity
    address: str
    """IP address that the session came from."""

    async def send(self, message: FromManager) -> None:
        """Waits while the other side is slow. Raises `SessionClosed`."""
        ...

    async def receive(self) -> FromAgent:
        """Raises `SessionClosed`."""
        ...

    async def close(self, reason: str) -> None: ...


class AgentSession(Protocol):
    """The agent's end."""

    address: str
    """Of the manager's host, or its name."""

    async def send(self, message: FromAgent) -> None: ...

    async def receive(self) -> FromManager: ...

    async def close(self, reason: str) -> None: ...


class Connect(Protocol):
    """How an agent gets a session: tries the managers it knows, one after the other, once each."""

    async def __call__(self) -> AgentSession:
        """Raises `Unavailable` if none answers, `Forbidden` if this node is no longer part of the
        swarm."""
        ...


class LogSource(Protocol):
    """The manager's end of a connection on which an agent publishes logs."""

    peer: Identity

    async def receive(self) -> FromPublisher:
        """The agent waits for as long as nobody does this. Raises `SessionClosed`."""
        ...


class LogSink(Protocol):
    """The agent's end."""

    async def send(self, message: FromPublisher) -> None:
        """Waits while the manager is slow. Raises `SessionClosed`."""
        ...

    async def closed(self) -> None:
        """Returns when the manager wants no more."""
        ...

    async def close(self) -> None: ...


class Publish(Protocol):
    """How an agent gets a connection on which it publishes logs."""

    async def __call__(self, manager: str, subscription: str, /) -> LogSink:
        """To the manager at `host:port`. Raises `Unavailable`, or `Forbidden` if there is no such
        subscription for this node."""
        ...


class LogRequest(msgspec.Struct, frozen=True, kw_only=True):
    """From one manager to another: tell a node that has its session with you."""

    node: NodeId
    publish: PublishLogs


class Relay(Protocol):
    """How a manager asks another one."""

    async def __call__(self, manager: str, request: LogRequest, /) -> None:
        """At `host:port`. Raises what `Manager.pass_on` does, and `Unavailable` if it does not
        answer."""
        ...


class AdmissionRequest(msgspec.Struct, frozen=True, kw_only=True):
    token: str
    csr: str
    """PEM certificate request; only its public key is used."""
    hostname: str
    data_path_address: IPv4Address
    availability: Availability = "active"
    advertise_address: str = ""
    """A manager's certificate is made out to it as well."""

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
    """From a node with a manager's certificate, which wants a part of the store."""

    peer_url: str
    """`https://address:port` where its store will listen for the other managers'."""
    manager_address: str
    """`host:port` of its session listener."""
    epoch: int = 0
    """The latest of the cluster that it was told of."""


class MemberGrant(msgspec.Struct, frozen=True, kw_only=True):
    peers: tuple[tuple[str, str], ...]
    """(node id, peer URL) of all members, the new one included."""
    revoked: tuple[ManagerCertificate, ...] = ()
    """To be refused by the new member from its first moment on."""


class Manager(Protocol):
    """What the session listener needs of the manager behind it."""

    async def admit(self, request: AdmissionRequest, source: str, /) -> Admitted:
        """A new node; `source` is the IP address that asks. Raises `InvalidArgument` for a request
        that makes no sense, `Forbidden` for a token that is not the cluster's."""
        ...

    def knows(self, address: str) -> bool:
        """Whether it is a node's IP address: connections from there are served before those of
        strangers."""
        ...

    @property
    def is_serving(self) -> bool:
        """Whether it can begin sessions now. An agent goes to another manager else."""
        ...

    @property
    def epoch(self) -> int:
        """Of the cluster, as this manager knows it."""
        ...

    async def serve(self, session: ManagerSession) -> None:
        """For as long as the session lasts. Raises `Forbidden` for a node that was removed."""
        ...

    async def enlist(self, peer: Identity, request: MemberRequest) -> MemberGrant:
        """Makes the node a member of the store that does not vote yet. Safe to call again. Raises
        `Forbidden` for a node that is not to be a manager, `FailedPrecondition` while another
        member is being taken in, and for one that knows a later epoch."""
        ...

    async def admit_vote(self, peer: Identity) -> None:
        """Gives the member its vote. Safe to call again. Raises `FailedPrecondition` while it has
        not caught up."""
        ...

    async def pass_on(self, peer: Identity, request: LogRequest) -> None:
        """Tells a node that has its session here to publish logs. Raises `Forbidden` if `peer` is
        not a manager, `FailedPrecondition` if there is no such session, or the node cannot."""
        ...

    async def take_logs(self, source: LogSource, subscription: str) -> None:
        """Returns when no more is wanted of them. Raises `Forbidden` unless there is such a
        subscription that waits for the peer."""
        ...


class Echo(Protocol):
    """Asks kernels of other hosts whether they are there. Nothing waits in here: neither call
    blocks."""

    def ask(self, address: IPv4Address) -> bool:
        """False if this host could not even send the question."""
        ...

    def answered(self) -> set[IPv4Address]:
        """Who has answered since the last call."""
        ...

    def close(self) -> None: ...
