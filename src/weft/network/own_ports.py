"""The host's own ports take precedence over published ones: packets to a port that the daemon
listens on are never sent to a task.

If a published port made a manager unreachable, every node would be cut off, and so would every user
who could withdraw the port. The API refuses such ports (`control/allocator/ports.py`), but each
host has its own listening ports: the number may have been published before this host joined. Other
hosts still publish the port.

Ports that this node publishes for its own containers take precedence over those of the swarm's
services in the same way: the container was there first, or its user would not have got the port.
"""

from collections.abc import Sequence

import msgspec

from weft.model.addresses import PortKey
from weft.model.assignment import Overlays
from weft.model.sandbox import NodeFacts
from weft.model.workload import Resident, Workload
from weft.network.desired import LocalPart, SwarmPart
from weft.network.service_table import Published, Services


def without_own_ports(residents: Sequence[Resident], own: frozenset[PortKey]) -> list[Resident]:
    """The residents without the host-mode ports that are the host's own. Workloads without such
    ports stay the same objects."""
    return [Resident(sandbox, _workload(workload, own)) for sandbox, workload in residents]


def own_ports(overlays: Overlays, facts: NodeFacts) -> frozenset[PortKey]:
    vxlan: PortKey = ("udp", overlays.data_path_port)
    return facts.own_ports | {vxlan}


def local_ports(local: LocalPart) -> frozenset[PortKey]:
    """Ports that this node publishes for its own containers, on whatever address."""
    return frozenset((p.protocol, p.published) for place in local.sandboxes for p in place.ports)


def swarm_ports(part: SwarmPart) -> frozenset[PortKey]:
    """Ports of this host that the swarm's part has: the daemon's own, the mesh's, and those that the
    tasks here have in host mode."""
    ingress = (view for view in part.overlays.networks.values() if view.definition.ingress)
    records = (record for view in ingress for record in view.services.values())
    mesh = (port for record in records for port in record.ports if port.mode == "ingress")
    tasks = (p for resident in part.residents for p in resident.workload.ports if p.mode == "host")
    found = frozenset((p.protocol, p.published) for p in (*mesh, *tasks) if p.published)
    return found | own_ports(part.overlays, part.facts)


def published(services: Services, own: frozenset[PortKey]) -> Services:
    """The services that the mesh publishes on this host; the same object if no service has one of
    the host's own ports."""
    hidden = {it for it in services if isinstance(it, Published) and it.key in own}
    if not hidden:
        return services
    return {destination: s for destination, s in services.items() if destination not in hidden}


def _workload(workload: Workload, own: frozenset[PortKey]) -> Workload:
    """Ports published in the mesh stay: other hosts send their traffic to the workload."""
    ports = tuple(
        p for p in workload.ports if p.mode == "ingress" or (p.protocol, p.published) not in own
    )
    if len(ports) == len(workload.ports):
        return workload
    return msgspec.structs.replace(workload, ports=ports)
