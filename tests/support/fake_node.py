"""One host and its swarm in memory, as the API sees them: enough for the stock docker command to
work against.

`FakeNode` keeps networks, services, tasks and this one node in a real `ClusterState`; a service's
tasks run at once, as plain processes (`ProcessRuntime`), with addresses handed out in order. What
it refuses, the manager's own functions refuse. There is no second node, no kernel and no failure
but those that a test asks for by what it runs.
"""

import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tests.support.fake_images import FakeImages, hex_of
from tests.support.fake_inside import FakeInside
from tests.support.fake_swarm import FakeSwarm, id_of
from weft.engine.adapters import EngineAdapters, NameAdapters, NetworkAdapters, Origin
from weft.engine.engine import Engine
from weft.errors import Forbidden, InvalidArgument, Unavailable
from weft.linux.fake import FakeKernel
from weft.manager import bootstrap
from weft.model.addresses import Port
from weft.model.container import Container, ContainerConfig, NodeEvent
from weft.model.health import Health
from weft.model.host import HostInfo
from weft.model.ids import ContainerId, NodeId
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.membership import InitRequest, JoinRequest, Membership
from weft.model.meta import Nanoseconds
from weft.model.network import Network
from weft.model.task import Attachment, ContainerStatus, Task, TaskState, TaskStatus
from weft.runtime.base import Images
from weft.runtime.fake_processes import ProcessRuntime
from weft.runtime.fake_volumes import FakeVolumes

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)
ALREADY = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join'
    " another one."
)


class FakeNode:
    """`api.backend.Node`. Not part of a swarm until `init`."""

    def __init__(self, runtime: Callable[[Images], ProcessRuntime] = ProcessRuntime) -> None:
        self.image_store = FakeImages()
        self.containers = runtime(self.image_store)
        self.inside = FakeInside(self.containers)
        network = NetworkAdapters(
            kernel=FakeKernel(), names=NameAdapters(open_resolver=_no_resolver)
        )
        origin = Origin(clock=time.time_ns, entropy=os.urandom)
        self.engine = Engine(
            "fake",
            EngineAdapters(
                runtime=self.containers,
                images=self.image_store,
                volumes=FakeVolumes(),
                network=network,
                origin=origin,
            ),
        )
        self.images = self.engine.images
        self.volumes = self.engine.volumes
        self.membership = Membership()
        self.info = HostInfo(
            hostname="node1",
            engine_id="fake",
            kernel="6.1.0",
            operating_system="Debian GNU/Linux",
            os_version="13",
            architecture="x86_64",
            cpus=2,
            memory=2**32,
            data_root="/var/lib/weft",
            runtime="runc 1.1.5",
            conmon="2.1.6",
            version="0.1.0",
            started_at=time.time_ns(),
        )
        self._swarm: FakeSwarm | None = None
        self._ids = itertools.count(100)

    def new_id(self) -> str:
        return id_of(next(self._ids))

    async def close(self) -> None:
        await self.engine.close()
        await self.containers.close()
        self.inside.close()

    def swarm(self) -> FakeSwarm:
        if self._swarm is None:
            raise Unavailable(NOT_A_MANAGER)
        return self._swarm

    async def init(self, request: InitRequest) -> NodeId:
        if self._swarm is not None:
            raise Unavailable(ALREADY)
        bootstrap.validate(request)
        self._swarm = FakeSwarm(self, request.spec, request.availability)
        node = next(iter(self._swarm.state.nodes.values()))
        self.membership = Membership(
            state="active",
            node=node.id,
            address="10.59.72.11",
            is_manager=True,
            managers=((node.id, node.manager_address),),
        )
        return node.id

    async def join(self, request: JoinRequest) -> None:
        if self.membership.state != "inactive":
            raise Unavailable(ALREADY)
        if not request.token.startswith("SWMTKN-1-"):
            raise InvalidArgument("invalid join token")
        if request.token == "SWMTKN-1-refused":
            raise Forbidden("A valid join token is necessary to join this cluster")
        address = request.remote_addresses[0]
        self.membership = Membership(
            state="active",
            node=NodeId(id_of(2)),
            address="10.59.72.12",
            managers=((NodeId(id_of(1)), address),),
        )

    async def leave(self, force: bool) -> None:
        if self.membership.state == "inactive":
            raise Unavailable("This node is not part of a swarm")
        if self._swarm is not None and not force:
            raise Unavailable(
                "You are attempting to leave the swarm on a node that is participating as a"
                " manager. Removing the last manager erases all current state of the swarm. Use"
                " `--force` to ignore this message."
            )
        await self.containers.close()
        self._swarm, self.membership = None, Membership()

    def local_networks(self) -> Sequence[LocalNetwork]:
        found = self.engine.local_networks()
        if self._swarm is not None:
            pool = ((IPv4Network("172.18.0.0/16"), "172.18.0.1"),)
            found.append(
                LocalNetwork(
                    id=hex_of("docker_gwbridge"),
                    name="docker_gwbridge",
                    driver="bridge",
                    pools=pool,
                )
            )
            state = self._swarm.state
            found += [
                self._local(network)
                for network in state.networks.values()
                if state.tasks_attached(network.id)
            ]
        return found

    def _local(self, network: Network) -> LocalNetwork:
        assert self._swarm is not None
        tasks = self._swarm.state.tasks_attached(network.id).values()
        return LocalNetwork(
            id=network.id,
            name=network.name,
            driver="overlay",
            scope="swarm",
            created_at=network.meta.created_at,
            pools=tuple((segment.subnet, str(segment.gateway)) for segment in network.segments),
            internal=network.spec.internal,
            attachable=network.spec.attachable,
            ingress=network.spec.ingress,
            options={
                "com.docker.network.driver.overlay.vxlanid_list": ",".join(
                    str(s.vni) for s in network.segments
                )
            },
            labels=network.spec.labels,
            endpoints=tuple(
                _endpoint(t, a)
                for t in tasks
                if t.is_live
                for a in t.attachments
                if a.network == network.id
            ),
        )

    def container_networks(
        self, id: ContainerId
    ) -> Mapping[str, tuple[LocalNetwork, LocalEndpoint]]:
        found = {}
        for network in self.local_networks():
            for endpoint in network.endpoints:
                if endpoint.key == id:
                    found[network.name] = (network, endpoint)
        return found

    def container_gateway(self, id: ContainerId) -> LocalEndpoint | None:
        return None

    def health(self, container: Container) -> Health | None:
        return self.engine.health.of(container)

    async def run(self, task: Task) -> TaskStatus:
        """A task's container, running."""
        labels = {
            "com.docker.swarm.node.id": task.node or "", "com.docker.swarm.service.id": task.service,
            "com.docker.swarm.service.name": task.service_name, "com.docker.swarm.task": "",
            "com.docker.swarm.task.id": task.id, "com.docker.swarm.task.name": task.name,
        }  # fmt: skip
        id = _container_of(task)
        namespace = None if task.spec.host_network else f"/run/docker/netns/{hex_of(id)[:12]}"
        config = ContainerConfig(
            id=id,
            name=task.name,
            spec=task.spec.container,
            hostname=id[:12],
            namespace=namespace,
            sandbox_id=hex_of(id),
            labels=labels | task.spec.container.labels,
        )
        await self.containers.create(config)
        container = await self.containers.start(id)
        self.engine.health.begin(container)
        self.emit("container", "start", id, {"name": task.name, "image": task.spec.container.image})
        return TaskStatus(
            TaskState.RUNNING,
            time.time_ns(),
            "started",
            container=ContainerStatus(id, container.pid),
        )

    def emit(
        self, type: str, action: str, id: str, attributes: dict[str, str], scope: str = "local"
    ) -> None:
        self.engine.events.add(
            NodeEvent(
                type=type,
                action=action,
                id=id,
                attributes=attributes,
                time=time.time_ns(),
                scope=scope,
            )
        )

    def events(self, since: Nanoseconds = 0, until: Nanoseconds = 0) -> AsyncIterator[NodeEvent]:
        return self.engine.events.listen(since, until)

    def tell(self, action: str, container: Container, **attributes: str) -> None:
        self.engine.events.container(action, container, **attributes)

    async def stop_container(self, container: Container, grace: Nanoseconds) -> None:
        await self.engine.stop(container, grace)

    async def kill_container(self, container: Container, signal: str) -> None:
        await self.engine.kill(container, signal)

    async def remove_container(self, id: ContainerId, *, volumes: bool) -> None:
        await self.engine.remove(id, volumes=volumes)


async def _no_resolver(
    path: Path, address: IPv4Address, port: Port
) -> tuple[socket.socket, socket.socket]:
    raise Unavailable("this node connects no containers")


def _container_of(task: Task) -> ContainerId:
    return ContainerId(hex_of(task.id))


def _endpoint(task: Task, attachment: Attachment) -> LocalEndpoint:
    endpoint_id = hex_of(f"{task.id} {attachment.network}")
    return LocalEndpoint(
        key=_container_of(task), name=task.name, endpoint_id=endpoint_id, address=attachment.address
    )
