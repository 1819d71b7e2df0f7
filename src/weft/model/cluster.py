"""The swarm itself: one object. Users write the spec; managers write secrets and cursors."""

from ipaddress import IPv4Network
from typing import Literal

import msgspec

from weft.model.addresses import FIRST_VNI, Port
from weft.model.certificate import ManagerCertificate
from weft.model.encryption import DataKey
from weft.model.ids import ClusterId
from weft.model.meta import SECOND, Meta, Nanoseconds
from weft.model.secret import Sealed

DEFAULT_POOL = (IPv4Network("10.0.0.0/8"),)
VXLAN_PORT = 4789
SESSION_PORT = 2377
"""Default port on which managers listen for nodes."""
PEER_PORT = 2380
"""Port on which etcd members of managers listen for each other."""


class RaftSettings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Settings of Docker Swarm's Raft log, kept for clients, which set them and expect to see them
    again. They have no effect: etcd keeps the log here."""

    snapshot_interval: int = 10_000
    """Log entries between two snapshots."""
    old_snapshots: int = 0
    """Snapshots kept beside the newest one."""
    entries_for_slow_followers: int = 500


class ClusterSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str = "default"
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    task_history: int = 5
    """Tasks kept per slot, the current one included."""
    heartbeat: Nanoseconds = 5 * SECOND
    certificate_expiry: Nanoseconds = 90 * 24 * 3600 * SECOND
    key_rotation: Nanoseconds = 12 * 3600 * SECOND
    """How long a key of the encrypted networks is the newest one."""
    key_bits: Literal[128, 256] = 128
    """Length of the AES keys of encrypted networks, from the next key on."""
    raft: RaftSettings = RaftSettings()
    force_rotate: int = 0
    """A higher number asks for a new root of the certificate authority."""
    auto_lock: bool = False
    """Whether managers lock their files, so that a daemon that starts asks for the unlock key."""


class RootCa(msgspec.Struct, frozen=True):
    certificate: str
    """PEM."""
    key: str
    """PEM, in the store sealed (`pki/stored_secrets.py`). Secret: never leaves the managers, never
    printed."""

    def __repr__(self) -> str:
        return "RootCa(…)"


class RootRotation(msgspec.Struct, frozen=True):
    """A new root that is being introduced. Nodes trust the old root until every node has a
    certificate signed by the new one. The cross-signed certificate in their chain makes new
    certificates valid under both roots."""

    root_ca: RootCa
    cross_signed: str
    """PEM: the new root's name and key, signed by the old root."""

    def __repr__(self) -> str:
        return "RootRotation(…)"


class JoinTokens(msgspec.Struct, frozen=True):
    """In the store sealed (`pki/stored_secrets.py`)."""

    worker: str
    manager: str

    def __repr__(self) -> str:
        return "JoinTokens(…)"


class Cluster(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: ClusterId
    spec: ClusterSpec = ClusterSpec()
    spec_follows: int = 0
    """The cluster's version before the last change of its spec: a reader of a later version has
    seen that spec."""
    default_pool: tuple[IPv4Network, ...] = DEFAULT_POOL
    subnet_size: int = 24
    data_path_port: Port = VXLAN_PORT
    root_ca: RootCa
    rotation: RootRotation | None = None
    cross_signed: str = ""
    """PEM: the root's name and key, signed by the previous root; empty for the first root. Managers
    present it for nodes that were away when the root changed."""
    join_tokens: JoinTokens
    next_vni: int = FIRST_VNI
    """Where the search for a free VNI begins (next-fit)."""
    next_port: int = 30000
    """Where the search for a free dynamic port begins."""
    data_keys: tuple[DataKey, ...] = ()
    """Keys of encrypted networks, oldest first, at most `KEYS_KEPT`; none until the first such
    network. Secret."""
    next_key_tag: int = 1
    sealing_key: str = ""
    """`SealingKey.id` of the key that seals secrets; empty before the first leader has made one.
    Managers have the key itself on their disks, never here."""
    unlock_key: Sealed | None = None
    """The key that unlocks managers, sealed under the sealing key; None unless `spec.auto_lock`."""
    revoked: tuple[ManagerCertificate, ...] = ()
    """Unexpired certificates of former managers: no manager accepts them."""
    revocations: int = 0
    """How often `revoked` has grown."""
    epoch: int = 0
    """How often the cluster was begun anew from one manager after the others were lost
    (`--force-new-cluster`). If they come back, with a state and even a quorum of their own, a node
    that has seen a later epoch ignores them."""
    meta: Meta = Meta()

    @property
    def name(self) -> str:
        return self.spec.name
