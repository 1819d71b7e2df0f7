"""What must hold after every commit and at every moment of a simulation, whatever goes wrong.
Written from what users rely on, with nothing of the code that is to keep it.

    after every commit   no address, subnet, VNI or published port has two owners; what a task got
                         it keeps, and its state only grows; what was removed does not come back;
                         what is said to be over does not run
    at each assignment   it is not older than the one before, and of one piece: the networks know
                         what the tasks have; if it is of the newest revision it is what the
                         dispatcher would make of the state
    at every moment      no two containers have one address, no two on a host one of its ports, and
                         no task has two containers
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv4Address
from itertools import combinations

from weft.control.assignments.assignment import assignment_for
from weft.control.assignments.views import network_views
from weft.model.assignment import Assignment
from weft.model.container import Container
from weft.model.ids import NetworkId
from weft.model.network import Network
from weft.model.node import Node
from weft.model.service import Service
from weft.model.state import ClusterState, Kind, Object, kind_of
from weft.model.task import Task, TaskState
from weft.model.workload import TASK_LABEL

Held = tuple[NetworkId, IPv4Address]
HostPort = tuple[str, int]
"""(protocol, port)"""


class Invariants:
    def __init__(self, running: Callable[[], Sequence[tuple[str, Container]]]) -> None:
        """`running`: the containers that run now, with the names of their hosts."""
        self._running = running
        self.objects: dict[tuple[Kind, str], Object] = {}
        """As the last commit left them."""
        self.revision = 0
        self.violations: list[str] = []
        self.commits = 0
        self._removed: set[tuple[Kind, str]] = set()
        self._told: dict[str, int] = {}
        """Revision of each node's assignment."""
        self._addresses: dict[str, frozenset[Held]] = {}
        """Of every task that ever was, as what follows."""
        self._ports: dict[str, frozenset[HostPort]] = {}

    # --- after every commit

    def committed(
        self, revision: int, put: Sequence[Object], removed: Sequence[tuple[Kind, str]]
    ) -> None:
        self.commits += 1
        if revision <= self.revision:
            self._broken(f"revision {revision} after {self.revision}")
        self.revision = revision
        for obj in put:
            key: tuple[Kind, str] = (kind_of(obj), obj.id)
            before = self.objects.get(key)
            if key in self._removed:
                self._broken(f"{key} came back after it was removed")
            if isinstance(obj, Task):
                self._addresses[obj.id] = frozenset(
                    (a.network, a.address.ip) for a in obj.attachments
                )
                self._ports[obj.id] = host_ports(obj)
                if isinstance(before, Task):
                    self._check_life(before, obj)
            self.objects[key] = obj
        for gone in removed:
            self.objects.pop(gone, None)
            self._removed.add(gone)
        self._check_owners()

    def _check_life(self, before: Task, after: Task) -> None:
        if after.state < before.state:
            self._broken(
                f"task {after.id} went back from {before.state.name} to {after.state.name}"
            )
        ends = (
            after.state.is_terminal
            and after.state != TaskState.ORPHANED
            and not before.state.is_terminal
        )
        if ends and after.id in {
            container.config.labels[TASK_LABEL] for _, container in self._running()
        }:
            self._broken(f"task {after.id} is said to be over and its container runs")
        if before.node is not None and after.node != before.node:
            self._broken(f"task {after.id} moved from {before.node} to {after.node}")
        has_less = not after.is_live and set(after.attachments) < set(before.attachments)
        if before.attachments and after.attachments != before.attachments and not has_less:
            self._broken(f"task {after.id} was given other addresses")
        if after.desired < before.desired and before.desired > TaskState.RUNNING:
            self._broken(f"task {after.id} is wanted again")

    def _check_owners(self) -> None:
        self._once("address", self._address_owners())
        self._once("VNI", ((s.vni, n.id) for n in self.networks for s in n.segments))
        self._once("published port", self._mesh_ports())
        self._once("port of a host", self._host_ports())
        self._once("name of a network", ((network.name, network.id) for network in self.networks))
        self._once("name of a service", ((service.name, service.id) for service in self.services))
        segments = [(s.subnet, n.name) for n in self.networks for s in n.segments]
        for (a, one), (b, other) in combinations(segments, 2):
            if a.overlaps(b):
                self._broken(f"subnets overlap: {a} of {one}, {b} of {other}")

    def _once(self, what: str, owners: Iterable[tuple[object, object]]) -> None:
        found: dict[object, object] = {}
        for value, owner in owners:
            if found.setdefault(value, owner) != owner:
                self._broken(f"{what} {value} is held by {found[value]} and {owner}")

    def _address_owners(self) -> Iterator[tuple[object, object]]:
        for network in self.networks:
            for segment in network.segments:
                yield (network.id, segment.gateway), "the gateway"
        for task in self.tasks:
            if not task.state.is_terminal:
                yield from (
                    ((a.network, a.address.ip), f"task {task.id}") for a in task.attachments
                )
        for node in self.nodes:
            yield from (((a.network, a.address.ip), f"node {node.id}") for a in node.attachments)
        for service in self.services:
            yield from (
                ((v.network, v.address.ip), f"service {service.id}")
                for v in service.endpoint.addresses
            )

    def _mesh_ports(self) -> Iterator[tuple[object, object]]:
        for service in self.services:
            for port in service.endpoint.ports:
                if port.mode == "ingress" and port.published:
                    yield (port.protocol, port.published), service.id

    def _host_ports(self) -> Iterator[tuple[object, object]]:
        for task in self.tasks:
            if TaskState.ASSIGNED <= task.state <= TaskState.RUNNING:
                yield from (((task.node, port), task.id) for port in host_ports(task))

    # --- at each assignment

    def assigned(self, new: Assignment) -> None:
        """To the node's agent, which has taken it over."""
        if new.revision < self._told.get(new.node, 0):
            self._broken(
                f"node {new.node} was taken back from revision {self._told[new.node]} to"
                f" {new.revision}"
            )
        self._told[new.node] = new.revision
        for task in new.tasks.values():
            for attachment in task.attachments:
                view = new.networks.get(attachment.network)
                known = view.endpoints.get(task.id) if view is not None else None
                if view is not None and (known is None or known.address != attachment.address):
                    self._broken(
                        f"node {new.node} was told of task {task.id} and not of its address at"
                        f" revision {new.revision}"
                    )
        if new.revision == self.revision and ("node", new.node) in self.objects:
            state = ClusterState(self.objects.values(), self.revision)
            if new != assignment_for(state, new.node, network_views(state)):
                self._broken(
                    f"node {new.node} was told something else than revision {new.revision}"
                )

    # --- at every moment

    def observe(self) -> None:
        running = self._running()
        owners: dict[Held, str] = {}
        listening: dict[tuple[str, HostPort], str] = {}
        for host, container in running:
            name = container.config.labels[TASK_LABEL]
            for port in self._ports.get(name, ()):
                if listening.setdefault((host, port), name) != name:
                    self._broken(
                        f"port {port} of {host} is used by containers of {listening[host, port]}"
                        f" and {name}"
                    )
        tasks = Counter(container.config.labels[TASK_LABEL] for _, container in running)
        for task in (task for task, count in tasks.items() if count > 1):
            self._broken(f"task {task} has {tasks[task]} containers")
        for task in sorted(tasks):
            if self._is_written_off(task):
                continue
            for held in self._addresses.get(task, ()):
                if held in owners:
                    self._broken(
                        f"address {held} is used by containers of {owners[held]} and {task}"
                    )
                owners[held] = task

    def _is_written_off(self, task: str) -> bool:
        """A user has removed its node by force, and with it said that the container is gone."""
        found = self.objects.get(("task", task))
        return not isinstance(found, Task) or ("node", str(found.node)) not in self.objects

    # ---

    @property
    def networks(self) -> list[Network]:
        return [obj for obj in self.objects.values() if isinstance(obj, Network)]

    @property
    def nodes(self) -> list[Node]:
        return [obj for obj in self.objects.values() if isinstance(obj, Node)]

    @property
    def services(self) -> list[Service]:
        return [obj for obj in self.objects.values() if isinstance(obj, Service)]

    @property
    def tasks(self) -> list[Task]:
        return [obj for obj in self.objects.values() if isinstance(obj, Task)]

    def _broken(self, what: str) -> None:
        if what not in self.violations:
            self.violations.append(what)


def host_ports(task: Task) -> frozenset[HostPort]:
    return frozenset(
        (port.protocol, port.published)
        for port in task.ports
        if port.mode == "host" and port.published
    )
