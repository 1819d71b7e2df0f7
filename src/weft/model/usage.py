"""Index of holdings: addresses per network; networks and resources per node. `ClusterState` updates
it with every change.

It is not a ledger: everything in it follows from the objects in the state, so nothing can leak and
nothing has to be given back. A task holds its addresses until its observed state is terminal, a
service and a node as long as they exist.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from weft.model.host_ports import HostPort, HostPorts
from weft.model.ids import NetworkId, NodeId
from weft.model.node import Node
from weft.model.service import Service
from weft.model.task import Task, TaskState

_NOTHING: Mapping[Any, int] = MappingProxyType({})


class NodeLoad(msgspec.Struct):
    """Resources that the tasks of one node use. Only `Usage` changes one."""

    tasks: int = 0
    """Tasks that are meant to run there, without attached containers."""
    nano_cpus: int = 0
    """Reserved by tasks that are assigned and not over, like the next two fields."""
    memory: int = 0
    """Bytes."""
    host_ports: HostPorts = msgspec.field(default_factory=HostPorts)
    generic: dict[tuple[str, str], int] = msgspec.field(default_factory=dict)
    """Amounts of generic resources, by kind and name."""


class Usage:
    def __init__(self) -> None:
        self._addresses: dict[NetworkId, dict[int, int]] = {}
        self._fixed: dict[NetworkId, dict[int, int]] = {}
        self._networks: dict[NodeId, dict[NetworkId, int]] = {}
        self._loads: dict[NodeId, NodeLoad] = {}

    def addresses(self, network: NetworkId) -> Mapping[int, int]:
        """Addresses held on a network, as integers, and the number of holders: 1, unless something
        went wrong."""
        return self._addresses.get(network, _NOTHING)

    def fixed(self, network: NetworkId) -> Mapping[int, int]:
        """Addresses on a network, as integers, that are kept for services whose users chose them,
        whether anything holds them now or not."""
        return self._fixed.get(network, _NOTHING)

    def networks(self, node: NodeId) -> Mapping[NetworkId, int]:
        """Networks of the node's tasks that are not over, with the number of these tasks."""
        return self._networks.get(node, _NOTHING)

    def load(self, node: NodeId) -> NodeLoad:
        return self._loads.get(node) or NodeLoad()

    def count(self, obj: object, sign: int) -> None:
        """Adds (`sign` 1) or subtracts (-1) what an object holds."""
        if isinstance(obj, Task):
            self._count_task(obj, sign)
        elif isinstance(obj, Service):
            held = ((a.network, int(a.address)) for a in obj.endpoint.addresses)
            _count_addresses(self._addresses, held, sign)
            _count_addresses(self._fixed, _kept(obj), sign)
        elif isinstance(obj, Node):
            held = ((a.network, int(a.address)) for a in obj.attachments)
            _count_addresses(self._addresses, held, sign)

    def _count_task(self, task: Task, sign: int) -> None:
        if task.state.is_terminal:
            return
        held = ((a.network, int(a.address)) for a in task.attachments)
        _count_addresses(self._addresses, held, sign)
        if task.node is None:
            return
        networks = self._networks.setdefault(task.node, {})
        for attachment in task.attachments:
            _add(networks, attachment.network, sign)
        if not networks:
            del self._networks[task.node]
        if task.state >= TaskState.ASSIGNED:
            self._count_load(task.node, task, sign)

    def _count_load(self, node: NodeId, task: Task, sign: int) -> None:
        load = self._loads.setdefault(node, NodeLoad())
        load.tasks += sign * (task.desired <= TaskState.RUNNING and task.attached is None)
        load.nano_cpus += sign * task.spec.reservations.nano_cpus
        load.memory += sign * task.spec.reservations.memory
        for port in host_ports(task):
            load.host_ports.count(port, sign)
        for resource in task.generic:
            _add(load.generic, resource.key, sign * resource.amount)


Addresses = dict[NetworkId, dict[int, int]]


def _count_addresses(tables: Addresses, held: Iterable[tuple[NetworkId, int]], sign: int) -> None:
    for network, address in held:
        table = tables.setdefault(network, {})
        _add(table, address, sign)
        if not table:
            del tables[network]


def _kept(service: Service) -> Iterator[tuple[NetworkId, int]]:
    """The addresses that are kept for the service, each once."""
    yield from {
        (each.network, int(address))
        for each in service.kept_addresses
        for address in (each.virtual, *each.tasks)
        if address is not None
    }


def host_ports(task: Task) -> list[HostPort]:
    """The host's ports that a task needs for itself. On the host's own network, these are the ports
    on which its program listens."""
    own = task.spec.host_network
    asked = (p.host_port for p in task.ports if p.mode == "host" and p.published)
    listens = (
        HostPort(p.protocol, p.target)
        for p in task.ports
        if own and p.mode == "host" and not p.published
    )
    return [*asked, *listens]


K = TypeVar("K")


def _add(table: dict[K, int], key: K, sign: int) -> None:
    count = table.get(key, 0) + sign
    if count:
        table[key] = count
    else:
        table.pop(key, None)
