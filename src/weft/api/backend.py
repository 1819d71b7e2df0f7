"""What the API needs of the node behind it, and all it may see of it.

`Node` is the whole: this host's containers, images and networks, its membership of a swarm, and, on a manager, the swarm's state.
Handlers read `swarm()` and write through its few methods, which check what crosses objects (names, use, versions) and allocate
nothing: the control loops do that when the change is committed. The errors are those of `weft.errors`, with the original's texts.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from ipaddress import IPv4Interface, IPv4Network
from typing import Literal, Protocol

import msgspec

from weft.model.cluster import Cluster, ClusterSpec, RootCa
from weft.model.container import NodeEvent
from weft.model.ids import ContainerId, NetworkId, NodeId, ServiceId
from weft.model.logs import LogsWanted, TaskLog
from weft.model.network import Network, NetworkSpec
from weft.model.node import NodeSpec
from weft.model.service import ServiceSpec
from weft.model.state import ClusterState
from weft.runtime.base import Images, Runtime
from weft.store.base import Standing

LocalSwarmState = Literal["inactive", "pending", "active", "error", "locked"]


class LocalEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A container's (or load balancer's) place on a network of this node."""

    key: str
    """The container's id; `lb-<network>` or `ingress-sbox` for a load balancer."""
    name: str
    endpoint_id: str
    address: IPv4Interface
    aliases: tuple[str, ...] = ()


class PeerView(msgspec.Struct, frozen=True):
    """A node on an overlay, as `docker network inspect` lists it."""

    name: str
    """12 hexadecimal digits."""
    address: str


class ServiceTaskView(msgspec.Struct, frozen=True):
    name: str
    endpoint_id: str
    address: str
    host: str


class ServiceView(msgspec.Struct, frozen=True):
    """For `docker network inspect --verbose`."""

    name: str
    virtual_address: str
    ports: tuple[str, ...]
    tasks: tuple[ServiceTaskView, ...]


class LocalNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network as this node has it: `bridge`, `host`, `none`, `docker_gwbridge`, and the overlays that it is on."""

    id: str
    name: str
    driver: Literal["bridge", "host", "null", "overlay"]
    scope: Literal["local", "swarm"] = "local"
    created_at: int = 0
    pools: tuple[tuple[IPv4Network, str], ...] = ()
    """(subnet, gateway)"""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    options: Mapping[str, str] = msgspec.field(default_factory=dict)
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    endpoints: tuple[LocalEndpoint, ...] = ()
    peers: tuple[PeerView, ...] = ()
    services: tuple[ServiceView, ...] = ()


class InitRequest(msgspec.Struct, frozen=True, kw_only=True):
    force_new_cluster: bool = False
    """Of a node that is a manager already: it goes on as the only one."""
    listen_address: str = "0.0.0.0:2377"
    advertise_address: str = ""
    data_path_address: str = ""
    data_path_port: int = 0
    availability: Literal["active", "pause", "drain"] = "active"
    """Of the node that begins it."""
    default_pool: tuple[IPv4Network, ...] = ()
    subnet_size: int = 0
    spec: ClusterSpec = ClusterSpec()


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    listen_address: str = "0.0.0.0:2377"
    advertise_address: str = ""
    data_path_address: str = ""
    remote_addresses: tuple[str, ...]
    token: str
    availability: Literal["active", "pause", "drain"] = "active"

    def __repr__(self) -> str:
        """Without the token, which is a secret."""
        return f"JoinRequest({', '.join(self.remote_addresses)})"


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """This node's part in a swarm."""

    state: LocalSwarmState = "inactive"
    node: NodeId | None = None
    address: str = ""
    """The address it advertises."""
    is_manager: bool = False
    error: str = ""
    managers: tuple[tuple[NodeId, str], ...] = ()
    """Managers that it knows: (id, host:port)."""


class HostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """For `docker info` and `docker version`."""

    hostname: str
    engine_id: str
    kernel: str
    operating_system: str
    os_version: str
    architecture: str
    cpus: int
    memory: int
    data_root: str
    runtime: str
    """`runc 1.1.5`"""
    conmon: str
    version: str
    started_at: int
    cgroup_version: str = "2"
    """`1` also where both are mounted: the controllers are where the first is."""
    esp_engine: str = ""
    """What seals encrypted networks: `kernel`, `userspace` or nothing."""
    apparmor: bool = False
    seccomp: bool = False
    """Containers are confined by it."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """The engine's."""
    warnings: tuple[str, ...] = ()


class Swarm(Protocol):
    """The manager's side. Versions are the `version` query argument; a stale one raises `OutOfSequence`."""

    @property
    def state(self) -> ClusterState: ...

    @property
    def cluster(self) -> Cluster: ...

    @property
    def standing(self) -> Standing:
        """Which managers are there, and which one leads."""
        ...

    def logs(self, wanted: LogsWanted) -> AsyncGenerator[Sequence[TaskLog], None]:
        """As they come from the nodes; at the end raises `Unavailable`, with the original's text, if some are missing."""
        ...

    async def update_cluster(
        self, version: int, spec: ClusterSpec, rotate_worker_token: bool, rotate_manager_token: bool,
        root: RootCa | None = None,
    ) -> None:  # fmt: skip
        """Begins the rotation to a new root of the certificate authority if `force_rotate` is another than it was, or to `root`
        if there is one."""
        ...

    async def rotate_keys(self) -> None:
        """Of the encrypted networks. Raises `FailedPrecondition` if there are none or the last rotation was just now."""
        ...

    async def create_network(self, spec: NetworkSpec) -> Network:
        """Returns when the allocator has given it subnets and VNIs; a network that can have none is taken back and its
        error raised. Raises `Conflict` for a name taken or a subnet that overlaps another network's."""
        ...

    def network_warnings(self, network: Network) -> Sequence[str]:
        """What its user should know of it: sentences that name subnets and hosts, without a full stop."""
        ...

    async def remove_network(self, id: NetworkId) -> None:
        """Raises `FailedPrecondition`: `network <id> is in use by service <id>` or `… by task <id>`."""
        ...

    async def create_service(self, spec: ServiceSpec) -> ServiceId: ...

    async def update_service(
        self, id: ServiceId, version: int, spec: ServiceSpec, rollback: Literal["", "previous"] = ""
    ) -> None:
        """With `rollback` the previous spec is put back and `spec` ignored."""
        ...

    async def remove_service(self, id: ServiceId) -> None: ...

    async def update_node(self, id: NodeId, version: int, spec: NodeSpec) -> None:
        """Raises `FailedPrecondition` for the demotion of a manager that the others cannot do without."""
        ...

    async def remove_node(self, id: NodeId, force: bool) -> None: ...


class Node(Protocol):
    """This host."""

    @property
    def info(self) -> HostInfo: ...

    @property
    def containers(self) -> Runtime: ...

    @property
    def images(self) -> Images: ...

    @property
    def membership(self) -> Membership: ...

    def swarm(self) -> Swarm:
        """Raises `Unavailable` with the original's sentence if this node is no manager or not part of a swarm."""
        ...

    async def init(self, request: InitRequest) -> NodeId: ...

    async def join(self, request: JoinRequest) -> None:
        """Returns when the node is part of the swarm. Raises `Unavailable` when it is already, `InvalidArgument` for a
        token that is not one, `Forbidden` for one that is refused."""
        ...

    async def leave(self, force: bool) -> None: ...

    def local_networks(self) -> Sequence[LocalNetwork]:
        """Overlays included of which this node has a part."""
        ...

    def container_networks(self, id: ContainerId) -> Mapping[str, tuple[LocalNetwork, LocalEndpoint]]:
        """By network name, of one container; without docker_gwbridge."""
        ...

    def container_gateway(self, id: ContainerId) -> LocalEndpoint | None:
        """Its place on docker_gwbridge."""
        ...

    def events(self, since: int = 0, until: int = 0) -> AsyncIterator[NodeEvent]:
        """Past ones from `since` on (0: none), then new ones as they happen, until `until` (0: for ever). On a manager
        those of swarm objects too. At least the last 256 are remembered."""
        ...
