"""A host of the swarm. Users write the spec, the node's session description, status, certificate
and routes, and the allocator the attachments. A node sets its own manager_address when it begins to
serve as a manager; the leader clears it afterwards."""

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
    """The address from which the node's session came."""
    manager: NodeId | None = None
    """The manager with which the node has its session; only that manager says when the node is
    down."""
    since: Nanoseconds = 0


class CertificateInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """The certificate that the node's last session showed."""

    issuer: str = ""
    """`pki.certificate.signer_id` of the root that signed the node's certificate."""
    trusted: str = ""
    """`pki.certificate.fingerprint` of the root that the node trusts."""
    serial: str = ""
    """Serial number of the node's certificate."""


class Node(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: NodeId
    spec: NodeSpec = NodeSpec()
    spec_follows: int = 0
    """The node's version before the last change of its spec: a reader of a later version has seen
    that spec."""
    description: NodeDescription = NodeDescription()
    status: NodeStatus = NodeStatus()
    certificate: CertificateInfo = CertificateInfo()
    joined_with: str = ""
    """Digest of the public key with which the node joined. A join request with the same key is from
    this node."""
    data_path_address: IPv4Address | None = None
    """The address to which VXLAN for this node is sent (its VTEP); set when the node joins."""
    manager_address: str = ""
    """`host:port` on which the manager listens for sessions; empty on workers."""
    store_peer: str = ""
    """`https://host:port` on which the node's etcd member listens for other members; empty if it
    has none."""
    manager_certificates: tuple[ManagerCertificate, ...] = ()
    """All unexpired certificates that were issued to the node as a manager. See
    `model/certificate.py`."""
    refuses: int = 0
    """The value of `Cluster.revocations` up to which the manager's etcd member refuses revoked
    certificates."""
    routes: tuple[str, ...] = ()
    """Subnets to which the host reported routes when it last connected. The report is not verified:
    see `control/allocator/routes.py`."""
    underlay_mtu: int = 0
    """MTU of the interface with the data path address, when the node last connected; 0: unknown."""
    attachments: tuple[Attachment, ...] = ()
    """One load-balancer address on ingress and on each network that a task of the node is on."""
    meta: Meta = Meta()

    @property
    def role(self) -> Role:
        """The role in effect. A demoted manager remains one until its etcd member has been
        removed."""
        return "manager" if self.manager_address or self.store_peer else self.spec.role

    @property
    def hostname(self) -> str:
        return self.description.hostname

    @property
    def name(self) -> str:
        return self.id
