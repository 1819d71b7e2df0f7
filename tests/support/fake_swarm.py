"""A swarm of one node in memory, as the API sees it: networks, services and tasks in a real
`ClusterState`.

Every write is carried out before it returns, by the manager's own functions; a service's tasks run
at once on the node, with addresses handed out in order.
"""

import hashlib
import itertools
import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from ipaddress import IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Literal

import msgspec

from weft.agent.logs import TaskLogs
from weft.control import rotation
from weft.control.requests import networks, nodes, secrets, services
from weft.control.requests.cluster import validate
from weft.errors import Conflict, FailedPrecondition, NotFound, OutOfSequence, Unavailable
from weft.manager.authority import PkiAuthority
from weft.model.cluster import Cluster, ClusterSpec, JoinTokens, RootCa
from weft.model.ids import (
    ClusterId,
    ConfigId,
    NetworkId,
    NodeId,
    SecretId,
    ServiceId,
    TaskId,
    swarm_id,
)
from weft.model.leadership_status import LeadershipStatus
from weft.model.logs import LogsWanted, TaskLog
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
from weft.model.secret import DataKind, DataSpec
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
from weft.model.task import Attachment, Task, TaskState, TaskStatus
from weft.pki import authority, sealing
from weft.pki.certificate import fingerprint, signer_id
from weft.session.messages import LogsRequest

if TYPE_CHECKING:
    from tests.support.fake_node import FakeNode


def id_of(number: int) -> str:
    return swarm_id(hashlib.sha256(str(number).encode()).digest()[:17])


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
        self._sealing_key = sealing.SealingKey(os.urandom(32))
        tokens = JoinTokens("SWMTKN-1-worker", "SWMTKN-1-manager")
        root = authority.root(
            authority.make_key(os.urandom), time.time_ns(), authority.make_serial(os.urandom)
        )
        cluster = Cluster(id=ClusterId(id_of(0)), spec=spec, root_ca=root, join_tokens=tokens)
        me = Node(
            id=NodeId(id_of(1)),
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
            if event.kind in ("network", "service", "node", "secret", "config"):
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
        request = LogsRequest(wanted=wanted)
        logs = TaskLogs(self._node.containers, self._node.events, time.time_ns, request)
        async with aclosing(logs.frames()) as frames:
            async for frame in frames:
                tasks = [(self.state.tasks[id], line) for id, line in frame.lines]
                yield [
                    TaskLog(task.node or NodeId(""), task.service, task.id, line)
                    for task, line in tasks
                ]
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

    async def create_data(self, kind: DataKind, spec: DataSpec, content: bytes) -> str:
        secrets.validate(kind, spec, content)
        id = swarm_id(os.urandom(17))
        if kind == "config":
            self.apply(*secrets.config_creation(self.state, ConfigId(id), spec, content))
        else:
            sealed = sealing.seal(self._sealing_key, id, content, os.urandom(12))
            self.apply(*secrets.secret_creation(self.state, SecretId(id), spec, sealed))
        return id

    async def update_data(
        self, kind: DataKind, id: str, version: int, spec: DataSpec, content: bytes
    ) -> None:
        self.apply(*secrets.update(self.state, kind, id, version, spec, lambda _: not content))

    async def remove_data(self, kind: DataKind, id: str) -> None:
        self.apply(*secrets.removal(self.state, kind, id))

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
