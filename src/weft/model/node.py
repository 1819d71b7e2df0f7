"""A host of the swarm. spec: the user's; description, status, certificate and routes: from its
session; attachments: the allocator's; manager_address: its own when it begins to serve as a
manager, the leader's when that is over."""

from enum import StrEnum
from ipaddress import IPv4Address
from typing import Literal

import msgspec

from weft.model.certificate import ManagerCertificate
from weft.model.ids import NodeId
from weft.model.meta import Meta, Nanoseconds
from weft.model.service import Resources
from weft.model.task import Attachment

Role = Literal["worker", "manager"]
Availability = Literal["active", "pause", "drain"]


class NodeState(StrEnum):
    UNKNOWN = "unknown"
    DOWN = "down"
    READY = "ready"
    DISCONNECTED = "disconnected"


class NodeSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    role: Role = "worker"
    availability: Availability = "active"
    name: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class NodeDescription(msgspec.Struct, frozen=True, omit_defaults=True):
    hostname: str = ""
    os: str = "linux"
    architecture: str = "x86_64"
    resources: Resources = Resources()
    engine_version: str = ""
    engine_labels: dict[str, str] = msgspec.field(default_factory=dict)


class NodeStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    state: NodeState = NodeState.UNKNOWN
    message: str = ""
    address: str = ""
    """The address that its session came from."""
    manager: NodeId | None = None
    """Whom its session is with; that manager alone says when the node is down."""
    since: Nanoseconds = 0


class CertificateInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What its last session showed."""

    issuer: str = ""
    """Who signed the node's certificate: `pki.certificate.signer_id` of a root."""
    trusted: str = ""
    """`pki.certificate.fingerprint` of the root that the node trusts."""
    serial: str = ""
    """Of the node's certificate."""


class Node(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: NodeId
    spec: NodeSpec = NodeSpec()
    spec_follows: int = 0
    """The node's version before its spec was changed last: whoever has read a later one has seen
    that spec."""
    description: NodeDescription = NodeDescription()
    status: NodeStatus = NodeStatus()
    certificate: CertificateInfo = CertificateInfo()
    joined_with: str = ""
    """Digest of the public key that it joined with. Who asks to join with that key again is this
    node."""
    data_path_address: IPv4Address | None = None
    """Where VXLAN to this node is sent (its VTEP); set when it joins."""
    manager_address: str = ""
    """`host:port` of its manager session listener; empty on workers."""
    store_peer: str = ""
    """`https://host:port` where its part of the store listens for the other managers'; empty where
    there is none."""
    manager_certificates: tuple[ManagerCertificate, ...] = ()
    """All that it was given as a manager and that have not expired. See `model/certificate.py`."""
    refuses: int = 0
    """`Cluster.revocations` as of which its part of the store refuses connections; of managers."""
    routes: tuple[str, ...] = ()
    """Subnets that the host said it has routes to, when it last connected: its word, see
    `control/allocator/routes.py`."""
    underlay_mtu: int = 0
    """Of the interface with its data path address, when it last connected; 0: unknown."""
    attachments: tuple[Attachment, ...] = ()
    """One load-balancer address on ingress and on each network that a task here is on."""
    meta: Meta = Meta()

    @property
    def role(self) -> Role:
        """What it is in effect. A manager that was demoted remains one until its part of the store
        has been taken from it."""
        return "manager" if self.manager_address or self.store_peer else self.spec.role

    @property
    def hostname(self) -> str:
        return self.description.hostname

    @property
    def name(self) -> str:
        return self.id
