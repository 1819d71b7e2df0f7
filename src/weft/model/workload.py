"""A workload, for which a node runs one container, and its sandbox. Network plans, names and the
container are derived from these.

A workload is made from a task (`agent/workloads.py`), but does not depend on tasks. Plain
containers have no workload: `engine/plain_containers.py` makes them from users' requests. The same
object is reused, so plans recognise by identity that nothing has changed.
"""

from typing import NamedTuple

import msgspec

from weft.model.ids import WorkloadId
from weft.model.sandbox import Sandbox
from weft.model.service import ContainerSpec, PublishedPort, Resources
from weft.model.task import Attachment

TASK_LABEL = "com.docker.swarm.task.id"
SERVICE_LABEL = "com.docker.swarm.service.id"
"""Labels of a task's container."""


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    id: WorkloadId
    """Also the id of the workload's endpoints on each of its networks."""
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
    host_network: bool = False
    """Whether the workload needs no sandbox."""
    is_leaving: bool = False
    """Whether the workload is to stop: its host-mode ports take no new connections."""
    is_closed: bool = False
    """Whether its stop signal comes next: its container takes no new connections by the mesh, and
    refuses none on its overlays."""


class Resident(NamedTuple):
    """A workload in its sandbox."""

    sandbox: Sandbox
    workload: Workload
