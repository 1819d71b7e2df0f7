"""Why a node cannot take a task: one filter per reason, in the order in which they are tried. Each
filter explains itself.

A filter compares `Requirements` (what the task needs, computed once per group of equal tasks) with
a `Place` (a node and what is taken of it, this pass included). The texts are Docker Swarm's.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import cached_property

import msgspec

from weft.control.scheduler.constraints import Constraint, architecture, parse, satisfied
from weft.errors import InvalidArgument
from weft.model.addresses import Port, PortKey
from weft.model.generic import GenericResource, Taken, claim
from weft.model.host_ports import HostPort, HostPorts
from weft.model.node import Node, NodeState
from weft.model.service import Resources
from weft.model.task import Task
from weft.model.usage import NodeLoad, host_ports

FIRST_EPHEMERAL, LAST_EPHEMERAL = 32768, 60999
"""net.ipv4.ip_local_port_range of Linux; Docker Swarm also takes host-mode ports from this
range."""


class Requirements(msgspec.Struct, frozen=True, dict=True):
    """The requirements of a task on its node."""

    reservations: Resources
    constraints: tuple[Constraint, ...]
    is_impossible: bool
    """A constraint cannot be parsed, so no node satisfies it."""
    platforms: tuple[tuple[str, str], ...]
    ports: tuple[HostPort, ...]
    max_replicas: int

    @classmethod
    def of(cls, task: Task) -> "Requirements":
        placement = task.spec.placement
        try:
            constraints, broken = parse(placement.constraints), False
        except InvalidArgument:
            constraints, broken = (), True
        platforms = tuple(
            (architecture(arch) if arch else "", os.lower()) for arch, os in placement.platforms
        )
        ports = tuple(host_ports(task))
        return cls(
            task.spec.reservations, constraints, broken, platforms, ports, placement.max_replicas
        )

    @cached_property
    def filters(self) -> tuple["Filter", ...]:
        """The filters that could refuse a node at all; most tasks can run on any node."""
        return tuple(f for f in FILTERS if f.concerns(self))


class Place(msgspec.Struct):
    """A node and what is taken of it; the scheduler adds what it decides."""

    node: Node
    tasks: int
    nano_cpus: int
    memory: int
    held: HostPorts
    """Host-mode ports of tasks that are there."""
    ports: HostPorts = msgspec.field(default_factory=HostPorts)
    """Host-mode ports that this pass gives to tasks."""
    generic: Taken = msgspec.field(default_factory=dict)
    """Amounts of generic resources that are taken."""
    reserved: Collection[PortKey] = ()
    """The swarm's own ports, never chosen for a task."""

    @classmethod
    def of(cls, node: Node, load: NodeLoad, reserved: Collection[PortKey] = ()) -> "Place":
        return cls(
            node,
            load.tasks,
            load.nano_cpus,
            load.memory,
            load.host_ports,
            generic=load.generic,
            reserved=reserved,
        )

    def take(self, requirements: Requirements) -> tuple[GenericResource, ...]:
        """Counts a task; gives the generic resources that it gets."""
        self.tasks += 1
        self.nano_cpus += requirements.reservations.nano_cpus
        self.memory += requirements.reservations.memory
        self.hold(*requirements.ports)
        claimed = self.claim(requirements) or ()
        if claimed:
            taken = Counter(self.generic)
            taken.update({resource.key: resource.amount for resource in claimed})
            self.generic = taken
        return claimed

    def claim(self, requirements: Requirements) -> tuple[GenericResource, ...] | None:
        """The generic resources that a task would get; None if there are not enough."""
        wanted = requirements.reservations.generic
        return claim(self.node.description.resources.generic, self.generic, wanted)

    def hold(self, *ports: HostPort) -> None:
        for port in ports:
            self.ports.count(port, 1)

    def holds(self, port: HostPort) -> bool:
        return self.held.has(port) or self.ports.has(port)

    def free_port(self, open: HostPort) -> Port:
        """A free number, in the range that Linux uses for automatic choices, for a port that has
        none; 0 if there is none."""
        numbers = range(FIRST_EPHEMERAL, LAST_EPHEMERAL + 1)
        wanted = (open._replace(port=number) for number in numbers)
        free = (it for it in wanted if not self.holds(it) and it.key not in self.reserved)
        return next((it.port for it in free), 0)


Test = Callable[[Requirements, Place, int], bool]
"""(requirements, place, tasks of the same service there) -> may the task run there?"""


class Filter(msgspec.Struct, frozen=True):
    concerns: Callable[[Requirements], object]
    """Truthy if the requirements contain anything that this filter checks."""
    passes: Test
    one: str
    """The text if the filter refused one node; in `many` the number of nodes is filled in."""
    many: str

    def explain(self, nodes: int) -> str:
        return self.one if nodes == 1 else self.many.format(nodes)


def _reserves(requirements: Requirements) -> object:
    reserved = requirements.reservations
    return reserved.nano_cpus or reserved.memory or reserved.generic


def _is_ready(_: Requirements, place: Place, __: int) -> bool:
    return place.node.status.state == NodeState.READY and place.node.spec.availability == "active"


def _has_room(requirements: Requirements, place: Place, _: int) -> bool:
    has, wants = place.node.description.resources, requirements.reservations
    enough_cpu = not wants.nano_cpus or place.nano_cpus + wants.nano_cpus <= has.nano_cpus
    enough_memory = not wants.memory or place.memory + wants.memory <= has.memory
    return enough_cpu and enough_memory and place.claim(requirements) is not None


def _meets_constraints(requirements: Requirements, place: Place, _: int) -> bool:
    return not requirements.is_impossible and satisfied(requirements.constraints, place.node)


def _runs_platform(requirements: Requirements, place: Place, _: int) -> bool:
    has = architecture(place.node.description.architecture), place.node.description.os.lower()
    return any(arch in ("", has[0]) and os in ("", has[1]) for arch, os in requirements.platforms)


def _has_ports(requirements: Requirements, place: Place, _: int) -> bool:
    return not any(place.holds(port) for port in requirements.ports)


def _is_below_limit(requirements: Requirements, _: Place, replicas: int) -> bool:
    return replicas < requirements.max_replicas


FILTERS = (
    Filter(
        lambda needs: True,
        _is_ready,
        "1 node not available for new tasks",
        "{} nodes not available for new tasks",
    ),
    Filter(
        _reserves,
        _has_room,
        "insufficient resources on 1 node",
        "insufficient resources on {} nodes",
    ),
    Filter(
        lambda needs: needs.constraints or needs.is_impossible,
        _meets_constraints,
        "scheduling constraints not satisfied on 1 node",
        "scheduling constraints not satisfied on {} nodes",
    ),
    Filter(
        lambda needs: needs.platforms,
        _runs_platform,
        "unsupported platform on 1 node",
        "unsupported platform on {} nodes",
    ),
    Filter(
        lambda needs: needs.ports,
        _has_ports,
        "host-mode port already in use on 1 node",
        "host-mode port already in use on {} nodes",
    ),
    Filter(
        lambda needs: needs.max_replicas,
        _is_below_limit,
        *["max replicas per node limit exceed"] * 2,
    ),
)


def obstacle(requirements: Requirements, place: Place, replicas: int) -> Filter | None:
    """The first filter that refuses the node; None: the task may run there."""
    for filter in requirements.filters:
        if not filter.passes(requirements, place, replicas):
            return filter
    return None


def explanation(obstacles: Iterable[Filter]) -> str:
    """Why no node was found: one clause per filter with the number of nodes that it refused, most
    first."""
    counted = Counter(FILTERS.index(f) for f in obstacles)
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    clauses = "; ".join(FILTERS[index].explain(nodes) for index, nodes in ranked)
    return f"no suitable node ({clauses})" if clauses else "no suitable node"
