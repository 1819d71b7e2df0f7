"""What a node runs one container for, and the sandbox that it gave to it: what plans, names and the
container are made of.

A workload is a task's (`agent/workloads.py` makes it of one). Nothing in it says so: what is made
of workloads works for whatever wants a container. It is made once and then the same object, by
which plans know that nothing has changed.
"""

from typing import NamedTuple

import msgspec

from weft.model.ids import WorkloadId
from weft.model.sandbox import Sandbox
from weft.model.service import ContainerSpec, PublishedPort, Resources
from weft.model.task import Attachment


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    id: WorkloadId
    """Its endpoints have the same on each of its networks."""
    name: str
    """Of the container."""
    spec: ContainerSpec
    labels: dict[str, str] = {}
    """Of the container."""
    limits: Resources = Resources()
    log_driver: str = "json-file"
    attachments: tuple[Attachment, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    """In host mode: to be sent to the container by this host; in the mesh: what it answers for
    other hosts."""
    host_network: bool = False
    """It needs no sandbox."""
    is_leaving: bool = False
    """Where two workloads want one port of the host, the one that is not has it."""


class Resident(NamedTuple):
    """A workload in its sandbox."""

    sandbox: Sandbox
    workload: Workload
