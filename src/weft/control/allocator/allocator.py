"""The allocator: gives networks their segments, nodes and services their addresses, services their
ports, and tasks their attachments.

One pass serves everything that lacks something, in order of dependency: networks (ingress first),
nodes, services, tasks. Each pass derives from the state what is free. An object that cannot be
served records the reason (`Network.error`, `Service.error`, `Task.status.err`) and is tried again
in the next pass; the others are served all the same. A pass that knows the events since the last
one skips nodes and services without events. Giving out an address also writes the network (its
cursor), giving out a port or VNI also writes the cluster: so two allocators that see the same state
cannot both commit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

import msgspec

from weft.control.allocator import routes, subnets, vnis
from weft.control.allocator.addresses import Book
from weft.control.allocator.ports import NO_PORTS, OwnPorts, Ports, answers, swarm_ports
from weft.errors import Conflict, Exhausted, WeftError
from weft.model.cluster import Cluster
from weft.model.ids import NetworkId, NodeId, ServiceId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.network import Network, Pool, Segment
from weft.model.node import Node, NodeState
from weft.model.service import Endpoint, PublishedPort, Service, VirtualAddress
from weft.model.state import MOST_CHANGES, Change, ClusterState, Decision, Event, Put
from weft.model.task import Attachment, Task, TaskState, TaskStatus

PENDING_MESSAGE = "pending task scheduling"
K = TypeVar("K")
T = TypeVar("T")
NO_INGRESS = "service needs ingress network, but no ingress network is present"


def reconcile(
    state: ClusterState,
    now: Nanoseconds,
    host_routes: Sequence[IPv4Network] = (),
    events: Iterable[Event] | None = None,
    own_ports: OwnPorts = NO_PORTS,
) -> Decision:
    """`host_routes`: of this host; like the routes that other hosts report, the automatic choice of
    a subnet avoids them. `events`: since the last decision, which left nothing unserved; None: look
    at everything. `own_ports`: of this host; services that leave the port open are given neither
    these nor the swarm's own ports."""
    if state.cluster is None:
        return Decision()
    turn = _Pass(state, state.cluster, now, host_routes, own_ports)
    changes = turn.run(*_concerned(state, events))
    return Decision(tuple(changes), unserved=turn.unserved)


def _concerned(
    state: ClusterState, events: Iterable[Event] | None
) -> tuple[Iterable[Node], Iterable[Service]]:
    """The nodes and services that may lack something or hold too much."""
    if events is None:
        return state.nodes.values(), state.services.values()
    nodes: dict[NodeId, None] = {}
    services: dict[ServiceId, None] = {}
    for event in events:
        obj = event.object
        if isinstance(obj, Network) and _is_another(event):
            return state.nodes.values(), state.services.values()
        if isinstance(obj, Node):
            nodes[obj.id] = None
        elif isinstance(obj, Service):
            services[obj.id] = None
        elif isinstance(obj, Task):
            nodes |= {
                task.node: None
                for task in (event.before, event.after)
                if isinstance(task, Task) and task.node
            }
            if event.after is None or obj.state.is_terminal:
                services[obj.service] = None
    return _present(state.nodes, nodes), _present(state.services, services)


def _is_another(event: Event) -> bool:
    """Whether more than the cursor has changed."""
    before, after = event.before, event.after
    return not (
        isinstance(before, Network)
        and isinstance(after, Network)
        and before.segments == after.segments
    )


def _present(table: Mapping[K, T], ids: Iterable[K]) -> list[T]:
    return [table[id] for id in ids if id in table]


class _Pass:
    """One pass over a state. It collects the objects to write, so that each is written once."""

    def __init__(
        self,
        state: ClusterState,
        cluster: Cluster,
        now: Nanoseconds,
        own_routes: Sequence[IPv4Network],
        own_ports: OwnPorts,
    ) -> None:
        self.state, self.now, self.routes, self.own_ports = state, now, own_routes, own_ports
        self.unserved = False
        self.cluster = cluster
        self.networks = dict(state.networks)
        self.services = state.services
        self.changed_services: dict[str, Service] = {}
        self.changes: list[Change] = []
        self.book = Book(state, self.networks)
        self.ports: Ports | None = None
        self.preempted: dict[TaskId, Task] = {}
        """Tasks on lost nodes whose addresses others need."""
        self.claimed = False
        """Whether a port or a VNI was given out."""

    def run(self, nodes: Iterable[Node], services: Iterable[Service]) -> list[Change]:
        for network in sorted(self.networks.values(), key=lambda n: not n.spec.ingress):
            if not network.segments:
                self.networks[network.id] = self._network(network)
        self.ingress = self.state.ingress.id if self.state.ingress else None
        for node in self._until_full(nodes):
            self._node(node)
        for service in self._until_full(services):
            if not self._is_allocated(service):
                self._service(service)
        for task in self._until_full(self.state.tasks_in(TaskState.NEW).values()):
            if task.desired <= TaskState.RUNNING:
                self._task(task)
        return [*self._numbers(), *self.changes, *map(Put, self.preempted.values())]

    def _until_full(self, objects: Iterable[T]) -> Iterator[T]:
        """Ends when the decision is full. Only later objects need earlier ones, so a pass may end
        anywhere."""
        for obj in objects:
            if len(self.changes) >= MOST_CHANGES:
                self.unserved = True
                return
            yield obj

    def _numbers(self) -> list[Change]:
        """Writes of the cluster and the networks, made last, when all that was given out is
        known."""
        for id, cursor in self.book.cursors.items():
            self.networks[id] = msgspec.structs.replace(self.networks[id], cursor=cursor)
        next_port = self.ports.cursor if self.ports else self.cluster.next_port
        cluster = msgspec.structs.replace(self.cluster, next_port=next_port)
        changed: list[Change] = [Put(cluster)] if self.claimed or cluster != self.cluster else []
        return changed + [
            Put(n) for n in self.networks.values() if n is not self.state.networks.get(n.id)
        ]

    # --- networks

    def _network(self, network: Network) -> Network:
        """The network with its segments, or with the reason why it has none; the same object if
        nothing is new."""
        try:
            segments, error = self._segments(network), ""
        except (Conflict, Exhausted) as cause:
            segments, error = (), str(cause)
            self.unserved = True
        if not segments and error == network.error:
            return network
        return msgspec.structs.replace(network, segments=segments, error=error)

    def _segments(self, network: Network) -> tuple[Segment, ...]:
        others = [n for n in self.networks.values() if n.id != network.id]
        pools = network.spec.pools or (self._automatic_pool(others),)
        allocated = (n for n in others if n.segments)
        cause = subnets.first_overlap(
            [pool.subnet for pool in pools], list(subnets.held(allocated))
        )
        if cause:
            raise Conflict(f"cannot create network {network.name}: {cause}")
        taken = {segment.vni for n in others for segment in n.segments}
        cursor, segments = self.cluster.next_vni, []
        for position, pool in enumerate(pools):
            if position < len(network.spec.vnis):
                vni = vnis.request(network.spec.vnis[position], pool.subnet, taken)
            else:
                vni = vnis.choose(cursor, taken)
                cursor = vni + 1
            taken.add(vni)
            segments.append(Segment(pool.subnet, pool.gateway_or_first(), vni))
        self.cluster = msgspec.structs.replace(self.cluster, next_vni=cursor)
        self.claimed = True
        return tuple(segments)

    def _automatic_pool(self, others: Sequence[Network]) -> Pool:
        taken = [subnet for _, subnet in (subnets.GATEWAY, *subnets.held(others))]
        avoided = list(routes.claimed(self.state, self.routes))
        return Pool(
            subnets.choose(self.cluster.default_pool, self.cluster.subnet_size, taken, avoided)
        )

    # --- nodes

    def _node(self, node: Node) -> None:
        """Gives the node a load-balancer address on ingress and on each network that one of its
        tasks is on. If a network has no free address, the next pass tries again."""
        ingress = (self.ingress,) if self.ingress else ()
        wanted = dict.fromkeys((*ingress, *self.state.usage.networks(node.id)))
        attachments = {
            a.network: a
            for a in node.attachments
            if a.network in wanted and self.book.has(a.network)
        }
        for id in wanted:
            if id not in attachments and id in self.networks:
                try:
                    attachments[id] = Attachment(id, self.book.take((id,))[id])
                except WeftError:
                    self.unserved = True
        if tuple(attachments.values()) != node.attachments:
            self.changes.append(
                Put(msgspec.structs.replace(node, attachments=tuple(attachments.values())))
            )

    # --- services

    def _virtual_networks(self, service: Service) -> tuple[NetworkId, ...]:
        """The networks on which the service has a virtual address, ingress first. Raises
        `Conflict`."""
        endpoint, task = service.spec.endpoint, service.spec.task
        wanted = []
        if any(p.mode == "ingress" for p in endpoint.ports):
            if self.ingress is None:
                raise Conflict(NO_INGRESS)
            wanted.append(self.ingress)
        if not task.host_network:
            wanted += [a.target for a in task.networks]
        return tuple(dict.fromkeys(wanted)) if endpoint.mode == "vip" else ()

    def _networks_held(self, service: Service) -> tuple[NetworkId, ...]:
        """The same, and the networks that the service has left while tasks of an earlier version
        are still on them: they use its virtual address there. Raises `Conflict`."""
        wanted = self._virtual_networks(service)
        left = [
            a.network
            for a in service.endpoint.addresses
            if a.network not in wanted and self.book.has(a.network)
        ]
        if not left or service.spec.endpoint.mode != "vip":
            return wanted
        tasks = [t for t in self.state.tasks_of(service.id).values() if not t.state.is_terminal]
        occupied = {attachment.network for task in tasks for attachment in task.attachments}
        return (*wanted, *(id for id in left if id in occupied))

    def _is_allocated(self, service: Service) -> bool:
        endpoint = service.endpoint
        if service.error or endpoint.spec != service.spec.endpoint:
            return False
        held = tuple(a.network for a in endpoint.addresses)
        try:
            return held == self._networks_held(service) and all(
                self._stays(service, a) for a in endpoint.addresses
            )
        except Conflict:
            return False

    def _stays(self, service: Service, held: VirtualAddress) -> bool:
        """Whether the service keeps the virtual address: it does unless its user chose another."""
        chosen = service.spec.virtual_addresses.get(held.network, held.address.ip)
        return chosen == held.address.ip and self.book.has(held.network)

    def _service(self, service: Service) -> None:
        try:
            endpoint, error = self._endpoint(service), ""
        except WeftError as cause:
            endpoint, error = service.endpoint, str(cause)
            self.unserved = True
        changed = msgspec.structs.replace(service, endpoint=endpoint, error=error)
        if changed != service:
            self.changed_services[service.id] = changed
            self.changes.append(Put(changed))

    def _endpoint(self, service: Service) -> Endpoint:
        networks = self._networks_held(service)
        kept = {a.network: a for a in service.endpoint.addresses if self._stays(service, a)}
        missing = [id for id in networks if id not in kept]
        fixed = service.spec.virtual_addresses
        self._reclaim({id: fixed[id] for id in missing if id in fixed})
        found = self.book.find(missing, fixed)
        ports = self._ports(service)
        new = self.book.claim(found, fixed)
        return Endpoint(
            service.spec.endpoint,
            ports,
            tuple(kept.get(id) or VirtualAddress(id, new[id]) for id in networks),
        )

    def _ports(self, service: Service) -> tuple[PublishedPort, ...]:
        if not service.spec.endpoint.ports:
            return ()
        if self.ports is None:
            nobodys = {*self.own_ports, *swarm_ports(self.state)}
            self.ports = Ports(self.services.values(), self.cluster.next_port, nobodys)
        ports = self.ports.take(service)
        self.claimed = self.claimed or any(p.mode == "ingress" for p in ports)
        return ports

    # --- tasks

    def _task(self, task: Task) -> None:
        """Moves the task from NEW to PENDING with all that it needs, or leaves it NEW with the
        reason."""
        service = self.changed_services.get(task.service) or self.services.get(task.service)
        if service is None:
            return
        try:
            if service.error:
                raise Conflict(service.error)
            allocated = self._attached(task, service)
        except WeftError as cause:
            allocated = self._refused(task, str(cause))
        if allocated != task:
            self.changes.append(Put(allocated))

    def _attached(self, task: Task, service: Service) -> Task:
        ports = (
            service.endpoint.ports if answers(task.ports, service.endpoint.ports) else task.ports
        )
        wanted = {} if task.spec.host_network else {a.target: a.aliases for a in task.spec.networks}
        if any(p.mode == "ingress" for p in ports):
            if self.ingress is None:
                raise Conflict(NO_INGRESS)
            wanted = {self.ingress: (), **wanted}
        fixed = service.spec.task_addresses(task.slot)
        self._reclaim({id: fixed[id] for id in wanted if id in fixed})
        addresses = self.book.take(wanted, fixed)
        attachments = tuple(
            Attachment(id, address, wanted[id]) for id, address in addresses.items()
        )
        status = TaskStatus(TaskState.PENDING, self.now, PENDING_MESSAGE)
        return msgspec.structs.replace(task, ports=ports, attachments=attachments, status=status)

    def _reclaim(self, fixed: Mapping[NetworkId, IPv4Address]) -> None:
        """Takes the addresses away from tasks that were told to stop and that no agent in reach
        can end: otherwise a service whose node was lost would wait for its address for a day. They
        are free in the next pass. If the node comes back, its agent learns at once that the task
        has no such address any more."""
        for id, address in fixed.items():
            if int(address) not in self.state.usage.addresses(id):
                continue
            for task in self.state.tasks_attached(id).values():
                if task.has(id, address) and self._is_lost(task):
                    task = self.preempted.get(task.id, task)
                    left = tuple(a for a in task.attachments if a.network != id)
                    self.preempted[task.id] = msgspec.structs.replace(task, attachments=left)
                    self.unserved = True

    def _is_lost(self, task: Task) -> bool:
        if task.state.is_terminal or task.desired <= TaskState.RUNNING:
            return False
        node = self.state.nodes.get(task.node) if task.node is not None else None
        return node is None or node.status.state is NodeState.DOWN

    def _refused(self, task: Task, cause: str) -> Task:
        if task.status.err == cause:
            return task
        return msgspec.structs.replace(
            task, status=TaskStatus(task.state, self.now, PENDING_MESSAGE, cause)
        )
