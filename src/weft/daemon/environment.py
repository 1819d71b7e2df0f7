"""The node around a member of a swarm. It exists before the membership and after it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from weft.agent.adapters import ExamineHost, nothing_wrong
from weft.control.allocator.ports import NO_PORTS, OwnPorts
from weft.engine.engine import Engine
from weft.model.addresses import PortKey
from weft.model.cluster import PEER_PORT, SESSION_PORT
from weft.model.ids import NodeId
from weft.model.node import NodeDescription
from weft.model.numbers import decimal
from weft.model.sandbox import NodeFacts
from weft.session.base import Connect, Echo
from weft.session.client import Connector
from weft.session.identity import CredentialSource
from weft.session.tls import IsRevoked
from weft.store.etcd.base import USUAL, Pace
from weft.store.etcd.external import ExternalEtcd


@dataclass(frozen=True, kw_only=True)
class HostAdapters:
    """Functions of the host that a member uses."""

    description: Callable[[], NodeDescription]
    routes: Callable[[], Sequence[IPv4Network]] = tuple
    """Subnets that this host has routes to."""
    connector: Callable[[CredentialSource, Callable[[], Sequence[str]], IsRevoked], Connect] = (
        Connector
    )
    """Makes the function that opens a session with one of the managers at these addresses, with the
    present credentials."""
    examine: ExamineHost = nothing_wrong
    """Looks for what is wrong with the host itself."""
    open_echo: Callable[[], Echo] | None = None
    """Opens a socket that asks another host whether it answers; None where this is not possible."""


@dataclass(frozen=True, kw_only=True)
class NodeEnvironment:
    """The parts of the node that a member uses."""

    data: Path
    """`<data root>/swarm`."""
    run: Path
    engine: Engine
    host: HostAdapters
    facts: Callable[[NodeId, IPv4Address], NodeFacts]
    own_ports: OwnPorts = field(default_factory=lambda: NO_PORTS)
    """Ports on which this host listens, in or out of a swarm."""
    pace: Pace = USUAL
    """Of this host's etcd member, while it is one of several managers."""
    external_etcd: ExternalEtcd | None = None
    """Set if the swarm's state is to be in an external etcd and not on the managers' hosts."""

    def ports_of_member(self, listen_address: str) -> frozenset[PortKey]:
        """Ports of this host as a member of a swarm, also of a worker: it may become a manager, and
        its rules are there before it listens."""
        session = decimal(listen_address.rpartition(":")[2]) or SESSION_PORT
        return frozenset({*self.own_ports, ("tcp", session), ("tcp", PEER_PORT)})
