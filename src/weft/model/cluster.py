"""The swarm itself: one object. spec: the user's; secrets and cursors: the manager's."""

from ipaddress import IPv4Network
from typing import Literal

import msgspec

from weft.model.addresses import FIRST_VNI, Port
from weft.model.certificate import ManagerCertificate
from weft.model.encryption import DataKey
from weft.model.ids import ClusterId
from weft.model.meta import SECOND, Meta, Nanoseconds

DEFAULT_POOL = (IPv4Network("10.0.0.0/8"),)
VXLAN_PORT = 4789
SESSION_PORT = 2377
"""Where managers listen for nodes, unless told otherwise."""
PEER_PORT = 2380
"""Where the members of the managers' store listen for each other."""


class ClusterSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str = "default"
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    task_history: int = 5
    """Tasks kept per slot, the current one included."""
    heartbeat: Nanoseconds = 5 * SECOND
    certificate_expiry: Nanoseconds = 90 * 24 * 3600 * SECOND
    key_rotation: Nanoseconds = 12 * 3600 * SECOND
    """Life of a key of the encrypted networks as the newest one."""
    key_bits: Literal[128, 256] = 128
    """Of AES on encrypted networks, from the next key on."""
    force_rotate: int = 0
    """Raised by one, it asks for a new root of the certificate authority."""


class RootCa(msgspec.Struct, frozen=True):
    certificate: str
    """PEM."""
    key: str
    """PEM. Secret: never leaves the managers, never printed."""

    def __repr__(self) -> str:
        return "RootCa(…)"


class RootRotation(msgspec.Struct, frozen=True):
    """A new root on its way in. Until every node has a certificate that it signed, the old one is
    what nodes trust; with the cross-signed certificate in their chain, new certificates are good
    under either."""

    root_ca: RootCa
    cross_signed: str
    """PEM: the new root's name and key, signed by the old root."""

    def __repr__(self) -> str:
        return "RootRotation(…)"


class JoinTokens(msgspec.Struct, frozen=True):
    worker: str
    manager: str

    def __repr__(self) -> str:
        return "JoinTokens(…)"


class Cluster(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: ClusterId
    spec: ClusterSpec = ClusterSpec()
    spec_follows: int = 0
    """The cluster's version before its spec was changed last: whoever has read a later one has seen
    that spec."""
    default_pool: tuple[IPv4Network, ...] = DEFAULT_POOL
    subnet_size: int = 24
    data_path_port: Port = VXLAN_PORT
    root_ca: RootCa
    rotation: RootRotation | None = None
    cross_signed: str = ""
    """PEM: the root's name and key, signed by the root before it; empty for the first. Managers
    show it for nodes that were away when the root changed."""
    join_tokens: JoinTokens
    next_vni: int = FIRST_VNI
    """Where the search for a free VNI begins (next-fit)."""
    next_port: int = 30000
    """Where the search for a free dynamic port begins."""
    data_keys: tuple[DataKey, ...] = ()
    """Of encrypted networks, oldest first, at most `KEYS_KEPT`; none until the first such network.
    Secret."""
    next_key_tag: int = 1
    revoked: tuple[ManagerCertificate, ...] = ()
    """Of nodes that are managers no more, until they expire: no manager believes them."""
    revocations: int = 0
    """How often there were more of them."""
    epoch: int = 0
    """How often it was begun anew from one manager, the others being lost (`--force-new-cluster`).
    Should they come back, with a state and even a majority of their own, whoever has seen a later
    epoch has nothing to do with them."""
    meta: Meta = Meta()

    @property
    def name(self) -> str:
        return self.spec.name
