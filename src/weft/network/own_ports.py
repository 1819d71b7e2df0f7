"""The host's own ports come before published ones: what the daemon listens on is never sent to a
task.

A manager that could not be reached because its port was published would cut off every node, and
with them whoever could take the port back. The API refuses such ports
(`control/allocator/ports.py`), but what a host listens on is its own affair: another may have
published the number before this one came. A task published there is reached by other hosts.
"""

from collections.abc import Sequence

import msgspec

from weft.model.addresses import PortKey
from weft.model.assignment import Overlays
from weft.model.sandbox import NodeFacts
from weft.model.workload import Resident, Workload
from weft.network.service_table import Services


def without_own_ports(residents: Sequence[Resident], own: frozenset[PortKey]) -> list[Resident]:
    """The residents as if none had published them here; the same objects in them of those that have
    not."""
    return [Resident(sandbox, _workload(workload, own)) for sandbox, workload in residents]


def own_ports(overlays: Overlays, facts: NodeFacts) -> frozenset[PortKey]:
    vxlan: PortKey = ("udp", overlays.data_path_port)
    return facts.own_ports | {vxlan}


def published(services: Services, own: frozenset[PortKey]) -> Services:
    """What the mesh publishes on this host; the same object if none of these is the host's own."""
    if own.isdisjoint(services):
        return services
    return {destination: s for destination, s in services.items() if destination not in own}


def _workload(workload: Workload, own: frozenset[PortKey]) -> Workload:
    """What it publishes in the mesh stays: other hosts send it there."""
    ports = tuple(
        p for p in workload.ports if p.mode == "ingress" or (p.protocol, p.published) not in own
    )
    if len(ports) == len(workload.ports):
        return workload
    return msgspec.structs.replace(workload, ports=ports)
