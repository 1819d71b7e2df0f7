"""The host's own ports come before published ones: what the daemon listens on is never sent to a task.

A manager that could not be reached because its port was published would cut off every node, and with
them whoever could take the port back. The API refuses such ports (`control/allocator/ports.py`), but
what a host listens on is its own affair: another may have published the number before this one came.
A task published there is reached by other hosts.
"""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from weft.model.addresses import PortKey
from weft.model.assignment import Assignment, NetworkView, ServiceRecord, TaskAssignment
from weft.model.sandbox import NodeFacts
from weft.model.service import PublishedPort

K = TypeVar("K")
V = TypeVar("V", NetworkView, ServiceRecord, TaskAssignment)


def without_own_ports(assignment: Assignment, facts: NodeFacts) -> Assignment:
    """The assignment as if nobody had published them here; the same object if nobody has."""
    vxlan: PortKey = ("udp", assignment.data_path_port)
    own = facts.own_ports | {vxlan}
    tasks = {id: _task(task, own) for id, task in assignment.tasks.items()}
    networks = {id: _view(view, own) for id, view in assignment.networks.items()}
    if _same(tasks, assignment.tasks) and _same(networks, assignment.networks):
        return assignment
    return msgspec.structs.replace(assignment, tasks=tasks, networks=networks)


def _task(task: TaskAssignment, own: frozenset[PortKey]) -> TaskAssignment:
    """What it publishes in the mesh stays: other hosts send it there."""
    ports = tuple(p for p in task.ports if p.mode == "ingress" or not _takes(p, own))
    return task if len(ports) == len(task.ports) else msgspec.structs.replace(task, ports=ports)


def _view(view: NetworkView, own: frozenset[PortKey]) -> NetworkView:
    if not view.definition.ingress:
        return view
    services = {id: _service(service, own) for id, service in view.services.items()}
    if _same(services, view.services):
        return view
    return msgspec.structs.replace(view, services=services)


def _service(service: ServiceRecord, own: frozenset[PortKey]) -> ServiceRecord:
    ports = tuple(port for port in service.ports if not _takes(port, own))
    if len(ports) == len(service.ports):
        return service
    return msgspec.structs.replace(service, ports=ports)


def _takes(port: PublishedPort, own: frozenset[PortKey]) -> bool:
    return (port.protocol, port.published) in own


def _same(new: Mapping[K, V], old: Mapping[K, V]) -> bool:
    return all(new[key] is value for key, value in old.items())
