"""A task: one container of a service, for all of its life. A task runs once; a restart is another
task in the same slot.

The orchestrator writes spec, slot and desired state, the scheduler the node, the allocator the
attachments. The agent writes the status from ASSIGNED on; before that, the loop that moves the
task.
"""

from enum import IntEnum
from ipaddress import IPv4Address, IPv4Interface

import msgspec

from weft.model.attached import AttachedContainer
from weft.model.generic import GenericResource
from weft.model.ids import ContainerId, NetworkId, NodeId, ServiceId, TaskId
from weft.model.meta import Meta, Nanoseconds
from weft.model.service import PublishedPort, TaskSpec
from weft.model.text import cut

MAX_TEXT = 2048
"""Characters of a status's message, and of its error."""


class TaskState(IntEnum):
    """The observed state only increases. The numbers leave gaps between states and are Docker
    Swarm's."""

    NEW = 0
    PENDING = 64
    ASSIGNED = 192
    ACCEPTED = 256
    PREPARING = 320
    READY = 384
    STARTING = 448
    RUNNING = 512
    COMPLETE = 576
    SHUTDOWN = 640
    FAILED = 704
    REJECTED = 768
    REMOVE = 800
    ORPHANED = 832

    @property
    def is_terminal(self) -> bool:
        """The container is gone or never existed; the task holds nothing any longer."""
        return self > TaskState.RUNNING


class Attachment(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An address on a network, held by a task or by a node's load balancer."""

    network: NetworkId
    address: IPv4Interface
    """Includes the segment's mask."""
    aliases: tuple[str, ...] = ()


class ContainerStatus(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    id: ContainerId
    pid: int = 0
    exit_code: int = 0


class TaskStatus(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    state: TaskState
    timestamp: Nanoseconds = 0
    message: str = ""
    err: str = ""
    """Why the task does not run; `docker service ps` shows it."""
    container: ContainerStatus | None = None
    ports: tuple[PublishedPort, ...] = ()
    """Host-mode ports as the node actually published them."""
    unhealthy_since: Nanoseconds = 0
    """When the container turned unhealthy; 0: it did not. From then on the task gets no new
    connections. It ends later, when its container has been stopped."""

    def cut(self) -> "TaskStatus":
        """The status with texts cut to `MAX_TEXT` characters, since they are stored and shown to
        every user."""
        if len(self.message) <= MAX_TEXT and len(self.err) <= MAX_TEXT:
            return self
        message, err = cut(self.message, MAX_TEXT), cut(self.err, MAX_TEXT)
        return msgspec.structs.replace(self, message=message, err=err)


class Task(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    id: TaskId
    service: ServiceId
    service_name: str
    service_labels: dict[str, str] = msgspec.field(default_factory=dict)
    """The service's labels when the task was created; templates may refer to them."""
    slot: int = 0
    """From 1; 0 for a global service's task. Users see `number`."""
    spec: TaskSpec
    spec_version: int = 0
    """`Service.spec_version` when the task was created. If the service's has changed, the task may
    be out of date."""
    ports: tuple[PublishedPort, ...] = ()
    """The service's ports when the task was created."""
    node: NodeId | None = None
    generic: tuple[GenericResource, ...] = ()
    """The generic resources of the node that the scheduler gave to the task."""
    attachments: tuple[Attachment, ...] = ()
    """Ingress first if the service publishes in the routing mesh, then the spec's networks in
    order."""
    desired: TaskState = TaskState.RUNNING
    status: TaskStatus = TaskStatus(TaskState.NEW)
    started_at: Nanoseconds = 0
    """When the task began to run, as its node reports; 0 if it never ran, or ended before its node
    could report."""
    restart_at: Nanoseconds = 0
    """A replacement has the desired state READY until this time; then the orchestrator sets
    RUNNING."""
    job_iteration: int | None = None
    """The iteration of the job that the task belongs to; None if its service is not a job."""
    attached: AttachedContainer | None = None
    """The node's own container whose place on a network the task is. Such a task has no service
    and runs nothing; its node ends it with the container's place."""
    meta: Meta = Meta()

    @property
    def name(self) -> str:
        """`webapp.1.<task id>`, or with the node's id in place of the number if that is 0; the name
        of an attached container."""
        return self.place if self.attached is not None else f"{self.place}.{self.id}"

    @property
    def place(self) -> str:
        """`webapp.1`: the name that the task's replacement will have too."""
        if self.attached is not None:
            return self.attached.name
        return f"{self.service_name}.{self.number or self.node}"

    @property
    def number(self) -> int:
        """The slot as users see it. The slots of a job count from 0, as in Docker Swarm: the docker
        command's display of a job's progress relies on it."""
        return self.slot - 1 if self.slot and self.job_iteration is not None else self.slot

    @property
    def shown_desired(self) -> TaskState:
        """The desired state as users see it. A job's task is meant to complete, and one that has
        completed is as it was meant to be, although nothing of it runs any longer."""
        is_wanted = self.desired == TaskState.RUNNING or (
            self.state == TaskState.COMPLETE and self.desired == TaskState.SHUTDOWN
        )
        return TaskState.COMPLETE if is_wanted and self.job_iteration is not None else self.desired

    @property
    def state(self) -> TaskState:
        return self.status.state

    def has(self, network: NetworkId, address: IPv4Address) -> bool:
        """Whether the task was given the address on the network."""
        return any((a.network, a.address.ip) == (network, address) for a in self.attachments)

    def observed(self, status: TaskStatus) -> "Task":
        """The task with the status that its node reports."""
        began = status.timestamp if status.state is TaskState.RUNNING else 0
        return msgspec.structs.replace(self, status=status, started_at=self.started_at or began)

    def witnessed(self, moment: Nanoseconds) -> Nanoseconds:
        """A time that the node's clock gave, as far as the managers' clocks bear it out: it lies
        between the creation of the task and its last change."""
        latest = self.meta.updated_at or moment
        return min(max(moment, self.meta.created_at), latest)

    @property
    def is_healthy(self) -> bool:
        """Whether the task runs and has not turned unhealthy."""
        return self.state == TaskState.RUNNING and not self.status.unhealthy_since

    @property
    def serves(self) -> bool:
        """Whether the task is healthy and is meant to run on: only then it gets new connections."""
        return self.is_healthy and self.desired == TaskState.RUNNING

    @property
    def is_starting(self) -> bool:
        """Whether the container is being started, or runs and is not healthy yet."""
        is_wanted = self.desired == TaskState.RUNNING and not self.status.unhealthy_since
        return is_wanted and self.state == TaskState.STARTING

    @property
    def is_live(self) -> bool:
        """Whether the task is meant to run and has not ended."""
        return self.desired <= TaskState.RUNNING and not self.state.is_terminal
