"""The interface between the API and the node behind it.

`Node` is the whole: this host's containers, images and networks, its membership of a swarm, and, on
a manager, the swarm's state. Handlers read `swarm()` and write through its few methods. These
methods check names, use and versions across objects and allocate nothing: the control loops
allocate after the change is committed. Errors are those of `weft.errors`, with Docker's texts.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Literal, Protocol

from weft.api.request_tally import RequestTally
from weft.model.bridge_network import BridgeNetwork, BridgeNetworkSpec
from weft.model.capture import CaptureEvent, CaptureWanted
from weft.model.cluster import Cluster, ClusterSpec, JoinTokens, RootCa
from weft.model.container import Container, NodeEvent
from weft.model.container_request import ContainerRequest
from weft.model.endpoint_settings import EndpointSettings
from weft.model.finding import Report
from weft.model.flows import FlowsWanted
from weft.model.health import Health
from weft.model.host import HostInfo
from weft.model.ids import ContainerId, NetworkId, NodeId, ServiceId
from weft.model.leadership_status import LeadershipStatus
from weft.model.limits import FurtherLimits
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.logs import LogsWanted, TaskLog
from weft.model.look import LookEvent
from weft.model.membership import InitRequest, JoinRequest, Membership
from weft.model.meta import Nanoseconds
from weft.model.network import Network, NetworkSpec
from weft.model.node import NodeSpec
from weft.model.plain_container import RestartRule
from weft.model.probe import Probed
from weft.model.registry import AuthSource, RegistryAuth
from weft.model.secret import DataKind, DataSpec
from weft.model.service import Resources, ServiceSpec
from weft.model.state import ClusterState
from weft.model.top import TopWanted
from weft.model.trace import TraceWanted
from weft.model.volume import Volume
from weft.runtime.base import ImageExchange, Images, Inside, Runtime


class Swarm(Protocol):
    """The manager's side. `version` is the query argument of that name; a stale version raises
    `OutOfSequence`."""

    @property
    def state(self) -> ClusterState: ...

    async def catch_up(self) -> None:
        """Returns when `state` includes every change that any manager committed before the call.
        Without a quorum `state` stays as it is, so that reads go on."""
        ...

    @property
    def cluster(self) -> Cluster: ...

    async def join_tokens(self) -> JoinTokens:
        """In clear. Raises `Unavailable` while this manager does not have the sealing key."""
        ...

    @property
    def leadership_status(self) -> LeadershipStatus:
        """The managers that are present, and the one that leads."""
        ...

    def logs(self, wanted: LogsWanted) -> AsyncGenerator[Sequence[TaskLog], None]:
        """Log lines in the order in which the nodes send them. Raises `Unavailable` at the end,
        with Docker's text, if lines are missing."""
        ...

    def capture(self, wanted: CaptureWanted) -> AsyncGenerator[CaptureEvent, None]:
        """Packets, in the order in which each node sends them, until what is watched is
        removed."""
        ...

    def flows(self, wanted: FlowsWanted) -> AsyncGenerator[LookEvent, None]:
        """The connections that the nodes track, in the order in which each node tells them. A node
        that does not answer in time is named, and the others' connections are told."""
        ...

    def top(self, wanted: TopWanted) -> AsyncGenerator[LookEvent, None]:
        """What the nodes' kernels have counted, again and again."""
        ...

    async def trace(self, wanted: TraceWanted) -> Probed:
        """A packet's way over the hosts, as their kernels are now, and that of its answer. A node
        that does not answer in time ends the way. Raises `NotFound`, `InvalidArgument` or
        `FailedPrecondition` for what cannot be asked."""
        ...

    async def update_cluster(
        self,
        version: int,
        spec: ClusterSpec,
        rotate_worker_token: bool,
        rotate_manager_token: bool,
        root: RootCa | None = None,
        rotate_unlock_key: bool = False,
    ) -> None:
        """Begins a rotation of the root certificate if `force_rotate` has changed, or a rotation to
        `root` if it is given. There is nothing to rotate without `auto_lock`."""
        ...

    async def unlock_key(self) -> str:
        """The key that unlocks managers; empty if autolock is off. Secret."""
        ...

    async def rotate_keys(self) -> None:
        """Replaces the keys of the encrypted networks. Raises `FailedPrecondition` if there are
        none or the last rotation was a moment ago."""
        ...

    async def create_network(self, spec: NetworkSpec) -> Network:
        """Returns when the allocator has assigned subnets and VNIs. If the allocator cannot, the
        network is removed again and the allocator's error is raised. Raises `Conflict` if the name
        is taken or a subnet overlaps another network's."""
        ...

    def network_warnings(self, network: Network) -> Sequence[str]:
        """Warnings for the network's user: sentences that name subnets and hosts, without a full
        stop."""
        ...

    async def remove_network(self, id: NetworkId) -> None:
        """Raises `FailedPrecondition`: `network <id> is in use by service <id>` or `… by task
        <id>`."""
        ...

    async def create_service(
        self, spec: ServiceSpec, auth: RegistryAuth | None = None
    ) -> ServiceId:
        """`auth`: for the image's registry. Nodes get it only for pulling that image."""
        ...

    async def update_service(
        self,
        id: ServiceId,
        version: int,
        spec: ServiceSpec,
        rollback: Literal["", "previous"] = "",
        auth: RegistryAuth | AuthSource = "spec",
    ) -> None:
        """`rollback` puts the previous spec back, with its credentials, and ignores `spec` and
        `auth`. `auth`: new credentials, or whose to keep. Raises `FailedPrecondition` if there is
        no previous spec."""
        ...

    async def remove_service(self, id: ServiceId) -> None: ...

    async def create_data(self, kind: DataKind, spec: DataSpec, content: bytes) -> str:
        """Creates a secret or a config and gives its id."""
        ...

    async def update_data(
        self, kind: DataKind, id: str, version: int, spec: DataSpec, content: bytes
    ) -> None:
        """Only labels may differ. `content`: empty, or the same data again."""
        ...

    async def remove_data(self, kind: DataKind, id: str) -> None:
        """Raises `InvalidArgument`, with the names of the services, if the object is in use."""
        ...

    async def update_node(self, id: NodeId, version: int, spec: NodeSpec) -> None:
        """Raises `FailedPrecondition` for a demotion of the last manager or one that costs the
        quorum."""
        ...

    async def remove_node(self, id: NodeId, force: bool) -> None: ...


class Volumes(Protocol):
    """The volumes of this host. Each change is an event."""

    def all(self) -> list[Volume]: ...

    def get(self, name: str) -> Volume:
        """Raises `NotFound`."""
        ...

    def path(self, name: str) -> str:
        """Where its files are on this host."""
        ...

    async def size(self, name: str) -> int:
        """Bytes of its files. Raises `NotFound`."""
        ...

    def users(self, name: str) -> list[ContainerId]:
        """The containers, running or not, that have it."""
        ...

    def used(self) -> frozenset[str]:
        """Names of the volumes that have users."""
        ...

    async def create(
        self,
        name: str = "",
        driver: str = "",
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
    ) -> Volume:
        """Without a name, a new anonymous volume. A volume that exists is returned as it is. Raises
        `NotFound` for a driver that is not `local`, `InvalidArgument` for a bad name or option."""
        ...

    async def remove(self, name: str, force: bool = False) -> None:
        """`force`: a missing volume is no error. Raises `NotFound`, or `Conflict` if a container
        has it."""
        ...

    async def prune(self, wanted: Callable[[Volume], bool]) -> tuple[list[str], int]:
        """Removes volumes that no container has. Returns their names and the bytes freed."""
        ...


class Networks(Protocol):
    """The networks that only this host has. Each change is an event."""

    def get(self, reference: str) -> BridgeNetwork:
        """`reference`: name, id or the beginning of an id. Raises `NotFound`, or `InvalidArgument`
        for an ambiguous one."""
        ...

    async def create(self, spec: BridgeNetworkSpec) -> BridgeNetwork:
        """Raises `Conflict`, `Forbidden`, `Exhausted` or `OperationFailed`."""
        ...

    async def remove(self, reference: str) -> None:
        """`reference`: name, id or the beginning of an id. Raises `NotFound`, or `Forbidden` if
        running containers are on the network."""
        ...

    async def prune(self, wanted: Callable[[BridgeNetwork], bool]) -> list[str]:
        """Removes networks that no running container is on. Returns their names."""
        ...


class PlainContainers(Protocol):
    """The containers that users have made on this host. Each change is an event."""

    async def create(self, request: ContainerRequest) -> ContainerId:
        """Raises `NotFound` for a missing image, `Conflict` for a name that is taken. All or
        nothing."""
        ...

    async def start(self, id: ContainerId) -> None: ...

    async def restart(
        self, container: Container, grace: Nanoseconds | None = None, signal: str = ""
    ) -> None:
        """Also one that does not run."""
        ...

    async def pause(self, container: Container) -> None:
        """Raises `Conflict` for a paused container, as `unpause` for one that is not."""
        ...

    async def unpause(self, container: Container) -> None: ...

    async def rename(self, container: Container, name: str) -> None:
        """Raises `Conflict` if the name is taken."""
        ...

    async def update(
        self,
        container: Container,
        change: Callable[[Container], tuple[Resources, FurtherLimits]],
        restart: RestartRule | None,
    ) -> None:
        """`change`: what the container has from now on, of what it is when its turn has come. `restart`: None for the one
        that it has."""
        ...

    async def prune(self, wanted: Callable[[Container], bool]) -> list[ContainerId]:
        """Removes the containers that do not run and are wanted."""
        ...

    def is_restarting(self, id: ContainerId) -> bool:
        """Whether the container has ended and waits to be started again; False for others'."""
        ...

    async def next_end(self, id: ContainerId) -> Container:
        """Returns at the container's next end, or at its removal."""
        ...

    async def removal(self, id: ContainerId) -> Container:
        """Returns when the container is removed: how it was at last."""
        ...


class Node(Protocol):
    """This host."""

    @property
    def plain(self) -> PlainContainers: ...

    @property
    def info(self) -> HostInfo: ...

    @property
    def containers(self) -> Runtime: ...

    @property
    def inside(self) -> Inside: ...

    @property
    def images(self) -> Images: ...

    @property
    def image_exchange(self) -> ImageExchange: ...

    @property
    def volumes(self) -> Volumes: ...

    @property
    def membership(self) -> Membership: ...

    def swarm(self) -> Swarm:
        """Raises `Unavailable` with Docker's text if this node is no manager or not part of a
        swarm."""
        ...

    async def init(self, request: InitRequest) -> NodeId: ...

    async def join(self, request: JoinRequest) -> None:
        """Returns when the node is part of the swarm. Raises `Unavailable` if the node is in a
        swarm already, `InvalidArgument` for a malformed token, `Forbidden` for a refused token."""
        ...

    async def unlock(self, key: str) -> None:
        """`key`: as users see it. Raises `Unauthorized` if it is not the right one,
        `InvalidArgument` if it is none, `Conflict` if the swarm is not locked, `Unavailable` if this
        node is no manager."""
        ...

    async def leave(self, force: bool) -> None: ...

    def tell(self, action: str, container: Container, **attributes: str) -> None:
        """Emits an event about a container that changes nothing, such as `top`."""
        ...

    async def stop_container(
        self, container: Container, grace: Nanoseconds, signal: str = ""
    ) -> None:
        """`signal`: the name of another one than the container's. Also emits the events, as
        `kill_container`."""
        ...

    async def kill_container(self, container: Container, signal: str) -> None:
        """`signal`: the signal's name. Also emits the event, which the runtime does not."""
        ...

    async def remove_container(self, id: ContainerId, *, volumes: bool) -> None:
        """Also emits the event, as `kill_container`. `volumes`: also removes the volumes that have
        no name."""
        ...

    @property
    def networks(self) -> Networks: ...

    async def connect_container(self, container: Container, settings: EndpointSettings) -> None:
        """Connects a container to one more network, this host's or the swarm's. Raises a
        `WeftError`."""
        ...

    async def disconnect_container(
        self, container: Container, network: str, force: bool
    ) -> None: ...

    def local_networks(self) -> Sequence[LocalNetwork]:
        """Includes the overlays that this node is part of."""
        ...

    def container_networks(
        self, id: ContainerId
    ) -> Mapping[str, tuple[LocalNetwork, LocalEndpoint]]:
        """One container's networks, by name, without docker_gwbridge."""
        ...

    def container_gateway(self, id: ContainerId) -> LocalEndpoint | None:
        """The container's endpoint on docker_gwbridge."""
        ...

    def health(self, container: Container) -> Health | None:
        """None for a container without a health check, or that has not been started."""
        ...

    async def examine(self, repair: bool) -> Report:
        """What is wrong: on a manager with the swarm and all nodes, else with this node. `repair`:
        mend the networks of these nodes first. Raises `Unavailable` if this manager stops,
        `OperationFailed` if the network cannot be mended."""
        ...

    async def metrics(self, requests: RequestTally) -> str:
        """All metrics of this host, a page in Prometheus' text format. `requests`: what the API was
        asked."""
        ...

    def events(self, since: int = 0, until: int = 0) -> AsyncIterator[NodeEvent]:
        """Past events from `since` on (0: none), then new events as they happen, until `until` (0:
        for ever). On a manager also the events of swarm objects. At least the last 256 are
        remembered."""
        ...
