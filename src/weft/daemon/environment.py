"""What a member of a swarm needs of the node around it, which was there before and will be
afterwards."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from weft.control.allocator.ports import NO_PORTS, OwnPorts
from weft.engine.engine import Engine
from weft.model.ids import NodeId
from weft.model.node import NodeDescription
from weft.model.sandbox import NodeFacts
from weft.session.base import Connect, Echo
from weft.session.client import Connector
from weft.session.identity import CredentialSource
from weft.session.tls import IsRevoked
from weft.store.etcd.external import ExternalEtcd


@dataclass(frozen=True, kw_only=True)
class HostAdapters:
    """What a member asks of its host."""

    description: Callable[[], NodeDescription]
    routes: Callable[[], Sequence[IPv4Network]] = tuple
    """Subnets that this host has routes to."""
    connector: Callable[[CredentialSource, Callable[[], Sequence[str]], IsRevoked], Connect] = (
        Connector
    )
    """How sessions are opened, with the present credentials, with one of the managers at these
    addresses."""
    open_echo: Callable[[], Echo] | None = None
    """How another host is asked whether it is there; None where it cannot be."""


@dataclass(frozen=True, kw_only=True)
class NodeEnvironment:
    """What a member needs of the node around it."""

    data: Path
    """`<data root>/swarm`."""
    run: Path
    engine: Engine
    host: HostAdapters
    facts: Callable[[NodeId, IPv4Address], NodeFacts]
    own_ports: OwnPorts = field(default_factory=lambda: NO_PORTS)
    """What this host listens on, in or out of a swarm."""
    external_etcd: ExternalEtcd | None = None
    """Where the swarm's state is to be if not on the managers' hosts."""
