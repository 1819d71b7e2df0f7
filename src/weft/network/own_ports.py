"""The host's own ports come before published ones: what the daemon listens on is never sent to a task.

A manager that could not be reached because its port was published would cut off every node, and with
them whoever could take the port back. The API refuses such ports (`control/allocator/ports.py`), but
what a host listens on is its own affair: another may have published the number before this one came.
A task published there is reached by other hosts.
"""

import msgspec

from weft.model.addresses import PortKey
from weft.model.assignment import Assignment, TaskAssignment
from weft.model.sandbox import NodeFacts
from weft.network.service_table import Services


def without_own_ports(assignment: Assignment, facts: NodeFacts) -> Assignment:
    """The assignment as if no task had published them here; the same object if none has."""
    own = own_ports(assignment, facts)
    tasks = {id: _task(task, own) for id, task in assignment.tasks.items()}
    if all(tasks[id] is task for id, task in assignment.tasks.items()):
        return assignment
    return msgspec.structs.replace(assignment, tasks=tasks)


def own_ports(assignment: Assignment, facts: NodeFacts) -> frozenset[PortKey]:
    vxlan: PortKey = ("udp", assignment.data_path_port)
    return facts.own_ports | {vxlan}


def published(services: Services, own: frozenset[PortKey]) -> Services:
    """What the mesh publishes on this host; the same object if none of these is the host's own."""
    if own.isdisjoint(services):
        return services
    return {destination: s for destination, s in services.items() if destination not in own}


def _task(task: TaskAssignment, own: frozenset[PortKey]) -> TaskAssignment:
    """What it publishes in the mesh stays: other hosts send it there."""
    ports = tuple(
        p for p in task.ports if p.mode == "ingress" or (p.protocol, p.published) not in own
    )
    return task if len(ports) == len(task.ports) else msgspec.structs.replace(task, ports=ports)
