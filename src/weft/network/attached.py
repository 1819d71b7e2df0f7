"""Plain containers on overlays, as residents of the swarm's part.

A plain container has one sandbox, which its bridge networks and its overlays share. On overlays it
is like a task: the same port on the network's bridge with the same guard, the same peers, the same
services by virtual address, and docker_gwbridge as its way out, unless a bridge network leads it
there (`bridge.outlet`). Then published ports are those of the bridge network too.
"""

from weft.model.ids import WorkloadId
from weft.model.local_sandbox import LocalSandbox
from weft.model.sandbox import Sandbox
from weft.model.service import ContainerSpec
from weft.model.task import Attachment
from weft.model.workload import Resident, Workload
from weft.network import bridge


def sandbox_of(place: LocalSandbox) -> Sandbox | None:
    """The sandbox as the swarm's part sees it; None for a container that is on no overlay."""
    if not place.overlays or place.gateway is None:
        return None
    return Sandbox(
        id=place.id,
        workload=WorkloadId(place.container),
        container=place.container,
        gateway=place.gateway,
        ports={endpoint.network: endpoint.port for endpoint in place.overlays},
        interfaces={endpoint.network: endpoint.number for endpoint in place.overlays},
        outlet=place.gateway_number,
    )


def resident_of(place: LocalSandbox, networks: bridge.Networks) -> Resident | None:
    """`networks`: the node's own. None for a container that is on no overlay."""
    sandbox = sandbox_of(place)
    if sandbox is None:
        return None
    has_outlet = bridge.outlet(place, networks) is not None
    workload = Workload(
        id=sandbox.workload,
        name=place.name,
        spec=ContainerSpec(image="", sysctls=place.sysctls),
        attachments=tuple(Attachment(e.network, e.address, e.aliases) for e in place.overlays),
        endpoints={endpoint.network: endpoint.attachment for endpoint in place.overlays},
        ports=() if has_outlet else place.ports,
        has_outlet=has_outlet,
    )
    return Resident(sandbox, workload)
