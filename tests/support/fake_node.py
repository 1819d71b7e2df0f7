"""One host and its swarm in memory, as the API sees them: enough for the stock docker command to
work against.

`FakeNode` keeps networks, services, tasks and this one node in a real `ClusterState`; a service's
tasks run at once, as plain processes (`ProcessRuntime`), with addresses handed out in order. What
it refuses, the manager's own functions refuse. There is no second node, no kernel and no failure
but those that a test asks for by what it runs.
"""

import asyncio
import hashlib
import itertools
import os
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Literal

import msgspec

from weft.agent.logs import TaskLogs
from weft.control import rotation
from weft.control.requests import networks, nodes, services
from weft.control.requests.cluster import validate
from weft.engine.adapters import EngineAdapters, NameAdapters, NetworkAdapters, Origin
from weft.engine.engine import Engine
from weft.errors import (
    Conflict,
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    NotFound,
    OutOfSequence,
    Unavailable,
)
from weft.linux.fake import FakeKernel
from weft.manager import bootstrap
from weft.manager.authority import PkiAuthority
from weft.model import references
from weft.model.addresses import Port
from weft.model.cluster import Cluster, ClusterSpec, JoinTokens, RootCa
from weft.model.container import Container, ContainerConfig, Image, ImageConfig, NodeEvent
from weft.model.host import HostInfo
from weft.model.ids import ClusterId, ContainerId, NetworkId, NodeId, ServiceId, TaskId, swarm_id
from weft.model.leadership_status import LeadershipStatus
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.logs import LogsWanted, TaskLog
from weft.model.membership import InitRequest, JoinRequest, Membership
from weft.model.meta import Nanoseconds
from weft.model.network import Network, NetworkSpec, Segment
from weft.model.node import (
    Availability,
    CertificateInfo,
    Node,
    NodeDescription,
    NodeSpec,
    NodeState,
    NodeStatus,
)
from weft.model.service import (
    Endpoint,
    Resources,
    Service,
    ServiceSpec,
    UpdateState,
    UpdateStatus,
    VirtualAddress,
)
from weft.model.state import Change, ClusterState, Put, Remove
from weft.model.task import Attachment, ContainerStatus, Task, TaskState, TaskStatus
from weft.pki import authority
from weft.pki.certificate import fingerprint, signer_id
from weft.runtime.fake_processes import ProcessRuntime

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)
ALREADY = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join'
    " another one."
)
IMAGE = "zaggash/demo-webapp:latest"
SCRIPT = "echo listening; echo ready >&2; exec sleep 3600"


def _id(number: int) -> str:
    return swarm_id(hashlib.sha256(str(number).encode()).digest()[:17])


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def demo_image() -> Image:
    config = ImageConfig(
        cmd=("sh", "-c", SCRIPT), env=("COLOUR=blue",), exposed_ports=((80, "tcp"),)
    )
    return Image(
        id=f"sha256:{_hex('demo')}",
        tags=(IMAGE,),
        created=time.time_ns(),
        size=12_345_678,
        config=config,
    )


class FakeImages:
    """`runtime.base.Images`. A registry that has every image but those whose name begins with
    `missing`."""

    def __init__(self) -> None:
        self.images = [demo_image()]

    def all(self) -> list[Image]:
        return list(self.images)

    def find(self, reference: str) -> Image:
        for image in self.images:
            if image.id == reference or image.id.removeprefix("sha256:").startswith(reference):
                return image
        name, tag, _ = references.parse(reference)
        found = next((image for image in self.images if f"{name}:{tag}" in image.tags), None)
        if found is None:
            raise NotFound(f"No such image: {reference}")
        return found

    async def pull(self, reference: str) -> AsyncIterator[str]:
        name, tag, _ = references.parse(reference)
        if name.startswith("missing"):
            raise NotFound(
                f"pull access denied for {name}, repository does not exist or may require 'docker"
                " login'"
            )
        yield f"Pulling from {name}"
        self._add(f"{name}:{tag}")
        yield f"Status: Downloaded newer image for {name}:{tag}"

    async def load(self, archive: AsyncIterator[bytes]) -> list[str]:
        size = 0
        async for chunk in archive:
            size += len(chunk)
        self._add("loaded:latest", size)
        return ["loaded:latest"]

    def _add(self, tag: str, size: int = 1000) -> None:
        image = Image(id=f"sha256:{_hex(tag)}", tags=(tag,), created=time.time_ns(), size=size)
        self.images[:] = [*(old for old in self.images if old.id != image.id), image]

    async def tag(self, reference: str, new: str) -> None:
        image = self.find(reference)
        name, tag, _ = references.parse(new)
        self._replace(image, (*image.tags, f"{name}:{tag}"))

    async def remove(self, reference: str, force: bool = False) -> list[tuple[str, str]]:
        image = self.find(reference)
        name, tag, _ = references.parse(reference)
        kept = (
            tuple(old for old in image.tags if old != f"{name}:{tag}")
            if not image.id.endswith(reference)
            else ()
        )
        self._replace(image, kept)
        return [("Untagged", f"{name}:{tag}"), *([] if kept else [("Deleted", image.id)])]

    def _replace(self, image: Image, tags: tuple[str, ...]) -> None:
        place = self.images.index(image)
        self.images[place : place + 1] = [msgspec.structs.replace(image, tags=tags)] if tags else []


class FakeSwarm:
    """`api.backend.Swarm`: every write is carried out before it returns."""

    def __init__(
        self, node: "FakeNode", spec: ClusterSpec, availability: Availability = "active"
    ) -> None:
        self._node = node
        self.state = ClusterState()
        self.missing = ""
        """Why some logs are."""
        self._subnets = itertools.count(0)
        self._vnis = itertools.count(4096)
        tokens = JoinTokens("SWMTKN-1-worker", "SWMTKN-1-manager")
        root = authority.root(
            authority.make_key(os.urandom), time.time_ns(), authority.make_serial(os.urandom)
        )
        cluster = Cluster(id=ClusterId(_id(0)), spec=spec, root_ca=root, join_tokens=tokens)
        me = Node(
            id=NodeId(_id(1)),
            spec=NodeSpec("manager", availability),
            status=NodeStatus(NodeState.READY, address="10.59.72.11"),
            description=NodeDescription(
                "node1", resources=Resources(2 * 10**9, 2**32), engine_version="0.1.0"
            ),
            manager_address="10.59.72.11:2377",
        )
        self.apply(Put(cluster), Put(me))
        self._certify(root, root)
        self._create_network(NetworkSpec(name="ingress", ingress=True))

    def apply(self, *changes: Change) -> None:
        for event in self.state.apply(changes, time.time_ns()):
            if event.kind in ("network", "service", "node"):
                action = (
                    "create"
                    if event.before is None
                    else "remove"
                    if event.after is None
                    else "update"
                )
                self._node.emit(
                    event.kind, action, event.object.id, {"name": event.object.name}, "swarm"
                )

    async def catch_up(self) -> None:
        """There is no other manager."""

    @property
    def leadership_status(self) -> LeadershipStatus:
        own = self._node.membership.node
        return LeadershipStatus(own, frozenset((own,)) if own else frozenset())

    @property
    def cluster(self) -> Cluster:
        assert self.state.cluster is not None
        return self.state.cluster

    async def update_cluster(
        self,
        version: int,
        spec: ClusterSpec,
        rotate_worker_token: bool,
        rotate_manager_token: bool,
        root: RootCa | None = None,
    ) -> None:
        cluster = self.cluster
        if cluster.meta.version != version:
            raise OutOfSequence("update out of sequence")
        validate(spec)
        worker = cluster.join_tokens.worker + ("-new" if rotate_worker_token else "")
        manager = cluster.join_tokens.manager + ("-new" if rotate_manager_token else "")
        tokens = JoinTokens(worker, manager)
        if root is None and spec.force_rotate == cluster.spec.force_rotate:
            self.apply(Put(msgspec.structs.replace(cluster, spec=spec, join_tokens=tokens)))
            return
        way = PkiAuthority().rotation(cluster.root_ca, root, time.time_ns(), os.urandom)
        self.apply(
            Put(msgspec.structs.replace(cluster, spec=spec, join_tokens=tokens, rotation=way))
        )
        self._certify(way.root_ca, cluster.root_ca)
        self.apply(*rotation.reconcile(self.state, time.time_ns(), os.urandom).changes)
        self._certify(way.root_ca, way.root_ca)

    def _certify(self, signer: RootCa, trusted: RootCa) -> None:
        """All nodes have certificates of the one, and trust the other."""
        certificate = CertificateInfo(
            signer_id(signer.certificate), fingerprint(trusted.certificate)
        )
        self.apply(
            *(
                Put(msgspec.structs.replace(node, certificate=certificate))
                for node in self.state.nodes.values()
            )
        )

    async def logs(self, wanted: LogsWanted) -> AsyncGenerator[Sequence[TaskLog], None]:
        """Read as an agent does."""
        logs = TaskLogs(self._node.containers, self._node.events, time.time_ns, wanted, {})
        reading = asyncio.create_task(logs.run())
        try:
            while lines := await logs.next():
                tasks = [(self.state.tasks[id], line) for id, line in lines]
                yield [
                    TaskLog(task.node or NodeId(""), task.service, task.id, line)
                    for task, line in tasks
                ]
            await reading
        finally:
            reading.cancel()
            await asyncio.wait((reading,))
        if self.missing:
            raise Unavailable(self.missing)

    async def rotate_keys(self) -> None:
        raise FailedPrecondition("cannot rotate keys: there is no encrypted network")

    async def create_network(self, spec: NetworkSpec) -> Network:
        return self._create_network(spec)

    def _create_network(self, spec: NetworkSpec) -> Network:
        id = NetworkId(self._node.new_id())
        [wanted] = networks.creation(self.state, id, spec)
        assert isinstance(wanted, Put)
        subnets = [pool.subnet for pool in spec.pools] or [
            IPv4Network(f"10.0.{next(self._subnets)}.0/24")
        ]
        segments = tuple(
            Segment(subnet, subnet.network_address + 1, next(self._vnis)) for subnet in subnets
        )
        cursor = int(subnets[0].network_address) + 1
        self.apply(Put(msgspec.structs.replace(wanted.object, segments=segments, cursor=cursor)))
        return self.state.networks[id]

    def network_warnings(self, network: Network) -> Sequence[str]:
        return networks.warnings(self.state, network, ())

    async def remove_network(self, id: NetworkId) -> None:
        self.apply(*networks.removal(self.state, id))

    async def create_service(self, spec: ServiceSpec) -> ServiceId:
        id = ServiceId(self._node.new_id())
        [wanted] = services.creation(self.state, id, spec)
        assert isinstance(wanted, Put)
        addresses = tuple(
            VirtualAddress(network, self._address(network)) for network in self._networks_of(spec)
        )
        endpoint = Endpoint(spec.endpoint, spec.endpoint.ports, addresses)
        self.apply(Put(msgspec.structs.replace(wanted.object, endpoint=endpoint)))
        await self._reconcile(id)
        return id

    async def update_service(
        self, id: ServiceId, version: int, spec: ServiceSpec, rollback: Literal["", "previous"] = ""
    ) -> None:
        if rollback:
            [wanted] = services.rollback(self.state, id, version, time.time_ns())
        else:
            [wanted] = services.update(self.state, id, version, spec)
        assert isinstance(wanted, Put)
        assert isinstance(wanted.object, Service)
        service = wanted.object
        status = UpdateStatus(
            UpdateState.COMPLETED, time.time_ns(), time.time_ns(), "update completed"
        )
        asked = service.spec.endpoint
        endpoint = msgspec.structs.replace(service.endpoint, spec=asked, ports=asked.ports)
        self.apply(Put(msgspec.structs.replace(service, update_status=status, endpoint=endpoint)))
        await self._reconcile(id)

    async def remove_service(self, id: ServiceId) -> None:
        self.apply(*services.removal(self.state, id))
        for task in list(self.state.tasks_of(id).values()):
            await self._end(task)
            self.apply(Remove("task", task.id, self.state.tasks[task.id].meta.version))

    async def update_node(self, id: NodeId, version: int, spec: NodeSpec) -> None:
        self.apply(*nodes.update(self.state, id, version, spec, self.leadership_status))

    async def remove_node(self, id: NodeId, force: bool) -> None:
        self.apply(*nodes.removal(self.state, id, force))

    # --- what the control loops and the agent would do

    def _networks_of(self, spec: ServiceSpec) -> list[NetworkId]:
        published = any(port.mode == "ingress" for port in spec.endpoint.ports)
        ingress = [self.state.ingress.id] if published and self.state.ingress else []
        return [*ingress, *(attachment.target for attachment in spec.task.networks)]

    def _address(self, id: NetworkId) -> IPv4Interface:
        network = self.state.networks[id]
        self.apply(Put(msgspec.structs.replace(network, cursor=network.cursor + 1)))
        subnet = network.segments[0].subnet
        return IPv4Interface(
            f"{subnet.network_address + (network.cursor + 1 - int(subnet.network_address))}/{subnet.prefixlen}"
        )

    async def _reconcile(self, id: ServiceId) -> None:
        """Ends tasks that are too many or out of date, then starts what is missing."""
        service = self.state.services[id]
        wanted = 1 if service.spec.replicas is None else service.spec.replicas
        slots: set[int] = set()
        for task in list(self.state.tasks_of(id).values()):
            current = task.is_live and task.slot <= wanted and task.spec == service.spec.task
            if current:
                slots.add(task.slot)
            elif task.is_live:
                await self._end(task)
        for slot in range(1, wanted + 1):
            if slot not in slots:
                await self._run(service, slot)

    async def _run(self, service: Service, slot: int) -> None:
        me = next(iter(self.state.nodes))
        attachments = tuple(
            Attachment(network, self._address(network))
            for network in self._networks_of(service.spec)
        )
        task = Task(
            id=TaskId(self._node.new_id()),
            service=service.id,
            service_name=service.name,
            slot=slot,
            node=me,
            spec=service.spec.task,
            spec_version=service.spec_version,
            ports=service.endpoint.ports,
            attachments=attachments,
        )
        try:
            status = await self._node.run(task)
        except (NotFound, Conflict) as error:
            status = TaskStatus(TaskState.REJECTED, time.time_ns(), "preparing", str(error))
        self.apply(Put(msgspec.structs.replace(task, status=status)))

    async def _end(self, task: Task) -> None:
        if task.status.container is not None:
            await self._node.containers.remove(task.status.container.id)
            self._node.emit("container", "die", task.status.container.id, {"name": task.name})
        status = TaskStatus(
            TaskState.SHUTDOWN, time.time_ns(), "shutdown", container=task.status.container
        )
        self.apply(Put(msgspec.structs.replace(task, status=status, desired=TaskState.SHUTDOWN)))


class FakeNode:
    """`api.backend.Node`. Not part of a swarm until `init`."""

    def __init__(self, runtime: Callable[[list[Image]], ProcessRuntime] = ProcessRuntime) -> None:
        self.image_store = FakeImages()
        self.containers = runtime(self.image_store.images)
        network = NetworkAdapters(
            kernel=FakeKernel(), names=NameAdapters(open_resolver=_no_resolver)
        )
        origin = Origin(clock=time.time_ns, entropy=os.urandom)
        self.engine = Engine(
            "fake",
            EngineAdapters(
                runtime=self.containers, images=self.image_store, network=network, origin=origin
            ),
        )
        self.images = self.engine.images
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
        return _id(next(self._ids))

    async def close(self) -> None:
        await self.containers.close()

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
            node=NodeId(_id(2)),
            address="10.59.72.12",
            managers=((NodeId(_id(1)), address),),
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
                    id=_hex("docker_gwbridge"), name="docker_gwbridge", driver="bridge", pools=pool
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

    async def run(self, task: Task) -> TaskStatus:
        """A task's container, running."""
        labels = {
            "com.docker.swarm.node.id": task.node or "", "com.docker.swarm.service.id": task.service,
            "com.docker.swarm.service.name": task.service_name, "com.docker.swarm.task": "",
            "com.docker.swarm.task.id": task.id, "com.docker.swarm.task.name": task.name,
        }  # fmt: skip
        id = _container_of(task)
        namespace = None if task.spec.host_network else f"/run/docker/netns/{_hex(id)[:12]}"
        config = ContainerConfig(
            id=id,
            name=task.name,
            spec=task.spec.container,
            hostname=id[:12],
            namespace=namespace,
            sandbox_id=_hex(id),
            labels=labels | task.spec.container.labels,
        )
        await self.containers.create(config)
        container = await self.containers.start(id)
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

    async def kill_container(self, container: Container, signal: str) -> None:
        await self.engine.kill(container, signal)

    async def remove_container(self, id: ContainerId) -> None:
        await self.engine.remove(id)


async def _no_resolver(
    path: Path, address: IPv4Address, port: Port
) -> tuple[socket.socket, socket.socket]:
    raise Unavailable("this node connects no containers")


def _container_of(task: Task) -> ContainerId:
    return ContainerId(_hex(task.id))


def _endpoint(task: Task, attachment: Attachment) -> LocalEndpoint:
    endpoint_id = _hex(f"{task.id} {attachment.network}")
    return LocalEndpoint(
        key=_container_of(task), name=task.name, endpoint_id=endpoint_id, address=attachment.address
    )
