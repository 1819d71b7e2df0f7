"""The swarm itself: one object. spec: the user's; secrets and cursors: the manager's."""

from ipaddress import IPv4Network

import msgspec

from weft.model.addresses import FIRST_VNI, Port
from weft.model.ids import ClusterId
from weft.model.meta import SECOND, Meta, Nanoseconds

DEFAULT_POOL = (IPv4Network("10.0.0.0/8"),)
VXLAN_PORT = 4789


class ClusterSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str = "default"
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    task_history: int = 5
    """Ended tasks kept per slot."""
    heartbeat: Nanoseconds = 5 * SECOND
    certificate_expiry: Nanoseconds = 90 * 24 * 3600 * SECOND


class RootCa(msgspec.Struct, frozen=True):
    certificate: str
    """PEM."""
    key: str
    """PEM. Secret: never leaves the managers, never printed."""

    def __repr__(self) -> str:
        return "RootCa(…)"


class JoinTokens(msgspec.Struct, frozen=True):
    worker: str
    manager: str

    def __repr__(self) -> str:
        return "JoinTokens(…)"


class Cluster(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: ClusterId
    spec: ClusterSpec = ClusterSpec()
    default_pool: tuple[IPv4Network, ...] = DEFAULT_POOL
    subnet_size: int = 24
    data_path_port: Port = VXLAN_PORT
    root_ca: RootCa
    join_tokens: JoinTokens
    next_vni: int = FIRST_VNI
    """Where the search for a free VNI begins (next-fit)."""
    next_port: int = 30000
    """Where the search for a free dynamic port begins."""
    meta: Meta = Meta()

    @property
    def name(self) -> str:
        return self.spec.name
