"""The whole desired state of a node's kernel, from what the manager assigned and what the node knows of itself.

The packet's hops contribute in the order in which it meets them; `fragments.merge` puts them together. Equal input gives an
equal state. A sandbox of a task that is not assigned is left out, and so goes away; and with the last sandbox on it a network,
without waiting for the manager to say so.
"""

from collections.abc import Iterator, Sequence

from weft.model.assignment import Assignment
from weft.model.ids import NetworkId
from weft.model.sandbox import NodeFacts, Sandbox
from weft.network import (
    encryption,
    gateway,
    ingress,
    loadbalancer,
    overlay,
    reply,
    sandbox,
    source_guard,
    underlay,
)
from weft.network.fragments import merge
from weft.network.kernel_state import KernelState, Namespace
from weft.network.own_ports import without_own_ports
from weft.network.ownership import INGRESS_SANDBOX
from weft.network.sandbox import Outlook
from weft.network.service_table import service_table


def plan(assignment: Assignment, facts: NodeFacts, sandboxes: Sequence[Sandbox]) -> KernelState:
    return merge(_hops(without_own_ports(assignment, facts), facts, sandboxes))


def _hops(assignment: Assignment, facts: NodeFacts, sandboxes: Sequence[Sandbox]) -> Iterator[Namespace]:
    residents = [(s, assignment.tasks[s.task]) for s in sorted(sandboxes, key=lambda s: s.id) if s.task in assignment.tasks]
    outside = [(s, task) for s, task in residents if sandbox.needs_gateway(task, assignment.networks)]
    yield from gateway.bridge(facts, outside)
    yield from encryption.isolation(assignment, facts)
    outlooks: dict[NetworkId, Outlook] = {}
    used = {attachment.network for _, task in residents for attachment in task.attachments}
    views = {id: view for id, view in sorted(assignment.networks.items()) if id in used or view.definition.ingress}
    yield underlay.datagrams([*views.values()], facts, assignment.data_path_port)
    for id, view in views.items():
        services = service_table(view)
        outlooks[id] = Outlook(view, services.virtual, reply.legs(view) if view.definition.ingress else None)
        yield from overlay.wire(view, facts, assignment)
        yield source_guard.guard(view, [task for _, task in residents])
        yield from loadbalancer.balancer(view, services.virtual, facts)
        if view.definition.ingress:
            yield from ingress.mesh(view, services.published, facts)
            if view.load_balancer(facts.node):
                yield from gateway.port(facts, INGRESS_SANDBOX, INGRESS_SANDBOX, "eth1", facts.ingress_gateway)
    reachable = {s.id for s, _ in outside}
    for resident, task in residents:
        yield from sandbox.connect(resident, task, outlooks, facts, resident.id in reachable)
