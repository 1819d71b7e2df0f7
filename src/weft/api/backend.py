"""What the API needs of the node behind it, and all it may see of it.

`Node` is the whole: this host's containers, images and networks, its membership of a swarm, and, on
a manager, the swarm's state. Handlers read `swarm()` and write through its few methods, which check
what crosses objects (names, use, versions) and allocate nothing: the control loops do that when the
change is committed. The errors are those of `weft.errors`, with Docker's texts.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Literal, Protocol

from weft.model.cluster import Cluster, ClusterSpec, RootCa
from weft.model.container import Container, NodeEvent
from weft.model.host import HostInfo
from weft.model.ids import ContainerId, NetworkId, NodeId, ServiceId
from weft.model.leadership_status import LeadershipStatus
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.logs import LogsWanted, TaskLog
from weft.model.membership import InitRequest, JoinRequest, Membership
from weft.model.network import Network, NetworkSpec
from weft.model.node import NodeSpec
from weft.model.service import ServiceSpec
from weft.model.state import ClusterState
from weft.runtime.base import Images, Runtime


class Swarm(Protocol):
    """The manager's side. Versions are the `version` query argument; a stale one raises
    `OutOfSequence`."""

    @property
    def state(self) -> ClusterState: ...

    async def catch_up(self) -> None:
        """Returns when `state` has all that was committed before the call, through whatever
        manager. Where there is no majority to ask it stays as it is: reads go on."""
        ...

    @property
    def cluster(self) -> Cluster: ...

    @property
    def leadership_status(self) -> LeadershipStatus:
        """Which managers are there, and which one leads."""
        ...

    def logs(self, wanted: LogsWanted) -> AsyncGenerator[Sequence[TaskLog], None]:
        """As they come from the nodes; at the end raises `Unavailable`, with Docker's text, if some
        are missing."""
        ...

    async def update_cluster(
        self,
        version: int,
        spec: ClusterSpec,
        rotate_worker_token: bool,
        rotate_manager_token: bool,
        root: RootCa | None = None,
    ) -> None:
        """Begins the rotation to a new root of the certificate authority if `force_rotate` is
        another than it was, or to `root` if there is one."""
        ...

    async def rotate_keys(self) -> None:
        """Of the encrypted networks. Raises `FailedPrecondition` if there are none or the last
        rotation was just now."""
        ...

    async def create_network(self, spec: NetworkSpec) -> Network:
        """Returns when the allocator has given it subnets and VNIs; a network that can have none is
        taken back and its error raised. Raises `Conflict` for a name taken or a subnet that
        overlaps another network's."""
        ...

    def network_warnings(self, network: Network) -> Sequence[str]:
        """What its user should know of it: sentences that name subnets and hosts, without a full
        stop."""
        ...

    async def remove_network(self, id: NetworkId) -> None:
        """Raises `FailedPrecondition`: `network <id> is in use by service <id>` or `… by task
        <id>`."""
        ...

    async def create_service(self, spec: ServiceSpec) -> ServiceId: ...

    async def update_service(
        self, id: ServiceId, version: int, spec: ServiceSpec, rollback: Literal["", "previous"] = ""
    ) -> None:
        """With `rollback` the previous spec is put back and `spec` ignored."""
        ...

    async def remove_service(self, id: ServiceId) -> None: ...

    async def update_node(self, id: NodeId, version: int, spec: NodeSpec) -> None:
        """Raises `FailedPrecondition` for the demotion of a manager that the others cannot do
        without."""
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
        """Raises `Unavailable` with Docker's sentence if this node is no manager or not part of a
        swarm."""
        ...

    async def init(self, request: InitRequest) -> NodeId: ...

    async def join(self, request: JoinRequest) -> None:
        """Returns when the node is part of the swarm. Raises `Unavailable` when it is already,
        `InvalidArgument` for a token that is not one, `Forbidden` for one that is refused."""
        ...

    async def leave(self, force: bool) -> None: ...

    async def kill_container(self, container: Container, signal: str) -> None:
        """`signal`: its name. Tells it as an event, which the runtime does not."""
        ...

    async def remove_container(self, id: ContainerId) -> None:
        """The same."""
        ...

    def local_networks(self) -> Sequence[LocalNetwork]:
        """Overlays included of which this node has a part."""
        ...

    def container_networks(
        self, id: ContainerId
    ) -> Mapping[str, tuple[LocalNetwork, LocalEndpoint]]:
        """By network name, of one container; without docker_gwbridge."""
        ...

    def container_gateway(self, id: ContainerId) -> LocalEndpoint | None:
        """Its place on docker_gwbridge."""
        ...

    def events(self, since: int = 0, until: int = 0) -> AsyncIterator[NodeEvent]:
        """Past ones from `since` on (0: none), then new ones as they happen, until `until` (0: for
        ever). On a manager those of swarm objects too. At least the last 256 are remembered."""
        ...
