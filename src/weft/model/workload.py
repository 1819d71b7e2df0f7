"""A workload, for which a node runs one container, and its sandbox. Network plans, names and the
container are derived from these.

A workload is made from a task (`agent/workloads.py`), but does not depend on tasks. A plain
container has one only as far as it is on networks of the swarm (`network/attached.py`):
`engine/plain_containers.py` makes the container from a user's request. The same object is reused,
so plans recognise by identity that nothing has changed.
"""

from typing import NamedTuple

import msgspec

from weft.model.ids import NetworkId, WorkloadId
from weft.model.sandbox import Sandbox
from weft.model.service import ContainerSpec, PublishedPort, Resources
from weft.model.task import Attachment

TASK_LABEL = "com.docker.swarm.task.id"
SERVICE_LABEL = "com.docker.swarm.service.id"
"""Labels of a task's container."""


def place_of(name: str, id: str) -> str:
    """`webapp.1` of the container `webapp.1.<id>`; a plain container's name as it is."""
    return name.removesuffix(f".{id}")


def service_of(place: str) -> str:
    """`webapp` of `webapp.1`."""
    return place.rpartition(".")[0]


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    id: WorkloadId
    """Also the id of the workload's endpoints on each of its networks, but for `endpoints`."""
    name: str
    """Name of the container."""
    spec: ContainerSpec
    labels: dict[str, str] = {}
    """Labels of the container."""
    limits: Resources = Resources()
    log_driver: str = "json-file"
    log_options: dict[str, str] = {}
    attachments: tuple[Attachment, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    """In host mode, ports that this host forwards to the container; in the mesh, ports that it
    answers for other hosts."""
    endpoints: dict[NetworkId, str] = {}
    """Ids of endpoints, by network, that are not the workload's own."""
    has_outlet: bool = False
    """Whether another network than those of the swarm leads the container outside."""
    host_network: bool = False
    """Whether the workload needs no sandbox."""
    is_leaving: bool = False
    """Whether the workload is to stop: its host-mode ports take no new connections."""
    is_closed: bool = False
    """Whether its stop signal comes next: its container takes no new connections by the mesh, and
    refuses none on its overlays."""

    @property
    def place(self) -> str:
        """`webapp.1`; the name of a plain container."""
        return place_of(self.name, self.id)

    @property
    def service(self) -> str:
        """The name of a task's service; empty for a plain container."""
        return service_of(self.place) if TASK_LABEL in self.labels else ""

    def endpoint(self, network: NetworkId) -> str:
        """The id of the workload's endpoint on the network."""
        return self.endpoints.get(network, self.id)


class Resident(NamedTuple):
    """A workload in its sandbox."""

    sandbox: Sandbox
    workload: Workload
