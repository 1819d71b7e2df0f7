"""The host's own ports take precedence over published ones: packets to a port that the daemon
listens on are never sent to a task.

If a published port made a manager unreachable, every node would be cut off, and so would every user
who could withdraw the port. The API refuses such ports (`control/allocator/ports.py`), but each
host has its own listening ports: the number may have been published before this host joined. Other
hosts still publish the port.

Ports that this node publishes for its own containers take precedence over those of the swarm's
services in the same way: the container was there first, or its user would not have got the port.
Both may be at one of the host's addresses; the same port at another one is another port.
"""

from collections.abc import Iterator, Sequence

import msgspec

from weft.model.assignment import Overlays
from weft.model.host_ports import HostPort, HostPorts
from weft.model.sandbox import NodeFacts
from weft.model.workload import Resident, Workload
from weft.network.desired import LocalPart, SwarmPart
from weft.network.service_table import Published, Services


def without_own_ports(residents: Sequence[Resident], own: HostPorts) -> list[Resident]:
    """The residents without the host-mode ports that are the host's own. Workloads without such
    ports stay the same objects."""
    return [Resident(sandbox, _workload(workload, own)) for sandbox, workload in residents]


def own_ports(overlays: Overlays, facts: NodeFacts) -> frozenset[HostPort]:
    """Ports on which the daemon listens. At which of the host's addresses does not matter: nobody
    publishes them at any."""
    vxlan = HostPort("udp", overlays.data_path_port)
    return frozenset({vxlan, *(HostPort(*key) for key in facts.own_ports)})


def local_ports(local: LocalPart) -> Iterator[HostPort]:
    """Ports that this node publishes for its own containers."""
    return (port.host_port for place in local.sandboxes for port in place.ports)


def swarm_ports(part: SwarmPart) -> frozenset[HostPort]:
    """Ports of this host that the swarm's part has: the daemon's own, the mesh's, and those that the
    tasks here have in host mode."""
    ingress = (view for view in part.overlays.networks.values() if view.definition.ingress)
    records = (record for view in ingress for record in view.services.values())
    mesh = (port for record in records for port in record.ports if port.mode == "ingress")
    tasks = (p for resident in part.residents for p in resident.workload.ports if p.mode == "host")
    found = frozenset(port.host_port for port in (*mesh, *tasks) if port.published)
    return found | own_ports(part.overlays, part.facts)


def published(services: Services, own: HostPorts) -> Services:
    """The services that the mesh publishes on this host; the same object if no service has one of
    the host's own ports."""
    hidden = {it for it in services if isinstance(it, Published) and own.has(it)}
    if not hidden:
        return services
    return {destination: s for destination, s in services.items() if destination not in hidden}


def _workload(workload: Workload, own: HostPorts) -> Workload:
    """Ports published in the mesh stay: other hosts send their traffic to the workload."""
    ports = tuple(p for p in workload.ports if p.mode == "ingress" or not own.has(p.host_port))
    if len(ports) == len(workload.ports):
        return workload
    return msgspec.structs.replace(workload, ports=ports)
