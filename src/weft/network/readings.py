"""Which counters of a node's kernel belong to which task, and to which of its ways: the mesh, the
swarm's other networks, or the outside."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from weft.model.assignment import Overlays
from weft.model.ids import ContainerId
from weft.model.workload import Resident

LOOPBACK = "lo"


class Reading(NamedTuple):
    """A task's or container's namespace."""

    namespace: str
    name: str
    service: str
    container: ContainerId
    devices: Mapping[str, Literal["mesh", "overlay"]]
    """All others but the loopback device lead outside."""


def readings(overlays: Overlays, residents: Iterable[Resident]) -> list[Reading]:
    return [_reading(overlays, resident) for resident in residents]


def _reading(overlays: Overlays, resident: Resident) -> Reading:
    sandbox, workload = resident
    devices: dict[str, Literal["mesh", "overlay"]] = {}
    for place, attachment in enumerate(workload.attachments):
        view = overlays.networks.get(attachment.network)
        is_mesh = view is not None and view.definition.ingress
        devices[sandbox.interface(attachment.network, place)] = "mesh" if is_mesh else "overlay"
    return Reading(sandbox.key, workload.place, workload.service, sandbox.container, devices)
