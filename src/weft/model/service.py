"""A service and the template of its tasks. Users write the spec, the allocator the endpoint, the
updater the update status."""

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface
from typing import Literal

import msgspec

from weft.model.addresses import AnyAddress, Port, Protocol
from weft.model.device import Device
from weft.model.generic import GenericResource
from weft.model.health import HealthCheck
from weft.model.host_ports import HostPort
from weft.model.ids import NetworkId, ServiceId
from weft.model.meta import SECOND, Meta, Nanoseconds
from weft.model.mount import BindOptions, VolumeOptions
from weft.model.privileges import Privileges
from weft.model.registry import SealedAuth
from weft.model.secret import DataReference

MountType = Literal["bind", "tmpfs", "volume"]


class Mount(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    type: MountType
    source: str = ""
    """A path of the host, or a volume's name; empty for an anonymous volume."""
    target: str
    read_only: bool = False
    bind: BindOptions | None = None
    volume: VolumeOptions | None = None
    tmpfs_size: int = 0
    """Bytes; 0 for the kernel's default."""
    tmpfs_mode: int = 0
    """Permissions of the root of the file system; 0 for 1777."""
    tmpfs_options: tuple[tuple[str, ...], ...] = ()
    """Each a name, or a name and a value."""


class Ulimit(msgspec.Struct, frozen=True):
    name: str
    soft: int
    hard: int


class ContainerSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The container to run. Empty values mean "as the image says"."""

    image: str
    command: tuple[str, ...] = ()
    """Replaces the image's entrypoint."""
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    """`NAME=value`."""
    dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    hostname: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    tty: bool = False
    open_stdin: bool = False
    read_only: bool = False
    stop_signal: str = ""
    stop_grace_period: Nanoseconds = 10 * SECOND
    hosts: tuple[str, ...] = ()
    """Lines for /etc/hosts: `address name [alias…]`."""
    dns_servers: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    sysctls: dict[str, str] = msgspec.field(default_factory=dict)
    ulimits: tuple[Ulimit, ...] = ()
    secrets: tuple[DataReference, ...] = ()
    configs: tuple[DataReference, ...] = ()
    init: bool | None = None
    """Whether a small init process runs the program and reaps orphans; None: no, as False."""
    oom_score_adj: int = 0
    """-1000 to 1000: how much rather the kernel kills the container when memory runs out."""
    privileges: Privileges = Privileges()
    devices: tuple[Device, ...] = ()
    healthcheck: HealthCheck | None = None


class Resources(msgspec.Struct, frozen=True, omit_defaults=True):
    nano_cpus: int = 0
    memory: int = 0
    """Bytes."""
    pids: int = 0
    generic: tuple[GenericResource, ...] = ()
    """Of a node: what it has; of a reservation: amounts by kind."""


class RestartPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    condition: Literal["none", "on-failure", "any"] = "any"
    delay: Nanoseconds = 5 * SECOND
    max_attempts: int = 0
    """0: without limit."""
    window: Nanoseconds = 0
    """Span within which attempts are counted; 0: all attempts."""


class Placement(msgspec.Struct, frozen=True, omit_defaults=True):
    constraints: tuple[str, ...] = ()
    """`node.role == manager`, as the user wrote it."""
    spread: tuple[str, ...] = ()
    """Labels to spread over, outermost first: `node.labels.zone`."""
    max_replicas: int = 0
    """Limit per node; 0: no limit."""
    platforms: tuple[tuple[str, str], ...] = ()
    """(architecture, os) on which the image runs; an empty string matches any."""


class NetworkAttachmentSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    target: NetworkId
    """Network id; the API resolves names."""
    aliases: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    """Names and values that have no effect, and that `inspect` shows."""


class TaskSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    container: ContainerSpec
    limits: Resources = Resources()
    reservations: Resources = Resources()
    restart: RestartPolicy = RestartPolicy()
    placement: Placement = Placement()
    networks: tuple[NetworkAttachmentSpec, ...] = ()
    host_network: bool = False
    """Whether the tasks use the predefined network `host`; then they have no sandbox."""
    log_driver: str = "json-file"
    log_options: dict[str, str] = msgspec.field(default_factory=dict)
    force_update: int = 0


class PublishedPort(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    target: Port
    published: Port = 0
    """0 in a spec: the allocator chooses a port from 30000-32767."""
    protocol: Protocol = "tcp"
    mode: Literal["ingress", "host"] = "ingress"
    name: str = ""
    host_address: AnyAddress | None = None
    """The host's address on which the port is published; None: on all of IPv4, `::`: on all of
    IPv6. For a service it comes from a label (`labels.py`), and is one of IPv4. A plain container's
    port that is open in both families stands here twice."""

    @property
    def host_port(self) -> HostPort:
        """The host's port, where `published` is known."""
        return HostPort(self.protocol, self.published, self.host_address)


Affinity = Literal["", "client-address"]


class EndpointSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    mode: Literal["vip", "dnsrr"] = "vip"
    ports: tuple[PublishedPort, ...] = ()
    affinity: Affinity = ""
    """Which connections are to reach the same task: none in particular, or those of a client."""


class UpdateConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    parallelism: int = 1
    """0: all slots at once."""
    delay: Nanoseconds = 0
    failure_action: Literal["pause", "continue", "rollback"] = "pause"
    monitor: Nanoseconds = 5 * SECOND
    max_failure_ratio: float = 0.0
    order: Literal["stop-first", "start-first"] = "stop-first"


class Job(msgspec.Struct, frozen=True, omit_defaults=True):
    """What makes a service a job: its tasks run to completion, once."""

    max_concurrent: int | None = None
    """Most tasks at a time of a replicated job; 0: none, the job waits for another specification.
    None for a global job."""


class FixedAddresses(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """Addresses on one network that the user chose, by labels of the service (`labels.py`). Nobody
    else is given them as long as the service exists."""

    network: NetworkId
    virtual: IPv4Address | None = None
    """The service's virtual address; None: the allocator chooses."""
    tasks: tuple[IPv4Address, ...] = ()
    """The address of the task in each slot, from slot 1 on. Empty: the allocator chooses."""

    def of_slot(self, slot: int) -> IPv4Address | None:
        return self.tasks[slot - 1] if 0 < slot <= len(self.tasks) else None


Mode = Literal["replicated", "global", "replicated-job", "global-job"]


class ServiceSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    name: str
    task: TaskSpec
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    replicas: int | None = 1
    """Tasks that are to run, or of a job: that are to complete. None: a global service, one task on
    each eligible node."""
    job: Job | None = None
    """None: a service whose tasks are to run for ever."""
    update: UpdateConfig = UpdateConfig()
    rollback: UpdateConfig = UpdateConfig()
    endpoint: EndpointSpec = EndpointSpec()
    addresses: tuple[FixedAddresses, ...] = ()
    unset: tuple[str, ...] = ()
    """Dotted paths, in the API's names, of the parts that the user left out: they have their
    defaults, and the API shows them only to clients that ask for defaults."""

    @property
    def is_global(self) -> bool:
        return self.replicas is None

    @property
    def mode(self) -> Mode:
        if self.job is not None:
            return "global-job" if self.is_global else "replicated-job"
        return "global" if self.is_global else "replicated"

    @property
    def virtual_addresses(self) -> dict[NetworkId, IPv4Address]:
        """The virtual addresses that the user chose."""
        return {fixed.network: fixed.virtual for fixed in self.addresses if fixed.virtual}

    def task_addresses(self, slot: int) -> dict[NetworkId, IPv4Address]:
        """The addresses that the user chose for the task in the slot."""
        found = ((fixed.network, fixed.of_slot(slot)) for fixed in self.addresses)
        return {network: address for network, address in found if address is not None}

    @property
    def most_slots(self) -> int | None:
        """The number of slots for which the user chose addresses; None: any number of slots."""
        return min((len(fixed.tasks) for fixed in self.addresses if fixed.tasks), default=None)


class VirtualAddress(msgspec.Struct, frozen=True, gc=False):
    network: NetworkId
    address: IPv4Interface
    """Includes the subnet's mask, as the API shows it."""


class Endpoint(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The allocator's result for a service."""

    spec: EndpointSpec = EndpointSpec()
    """The endpoint spec that this fulfils. The service is allocated if this equals the service's
    own endpoint spec and nothing is missing."""
    ports: tuple[PublishedPort, ...] = ()
    """Published ports, all with numbers."""
    addresses: tuple[VirtualAddress, ...] = ()


class UpdateState(StrEnum):
    UPDATING = "updating"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLBACK_STARTED = "rollback_started"
    ROLLBACK_PAUSED = "rollback_paused"
    ROLLBACK_COMPLETED = "rollback_completed"


class UpdateStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    state: UpdateState
    started_at: Nanoseconds = 0
    completed_at: Nanoseconds = 0
    message: str = ""


class JobStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """Written with the specification: each update starts a job again."""

    iteration: int = 0
    last_execution: Nanoseconds = 0
    """When the iteration began."""


class Service(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: ServiceId
    spec: ServiceSpec
    spec_version: int = 0
    """The store's revision at the last change of the spec. Writers set 0; the store fills it in.
    See `Task.spec_version`."""
    spec_follows: int = 0
    """The service's version before the last change of its spec: a reader of a later version has
    seen that spec."""
    previous_spec: ServiceSpec | None = None
    registry_auth: SealedAuth | None = None
    """The credentials with which the tasks' nodes pull the image."""
    previous_registry_auth: SealedAuth | None = None
    """Those that belong to the previous spec."""
    endpoint: Endpoint = Endpoint()
    update_status: UpdateStatus | None = None
    job_status: JobStatus | None = None
    """None for a service that is not a job."""
    error: str = ""
    """Why the allocator could not serve the endpoint."""
    meta: Meta = Meta()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def kept_addresses(self) -> tuple[FixedAddresses, ...]:
        """The addresses that are kept for the service. Until an update is complete, these include
        those of the previous specification, to which the service may be rolled back."""
        status, previous = self.update_status, self.previous_spec
        is_open = status is not None and not status.completed_at
        return self.spec.addresses + (previous.addresses if previous and is_open else ())

    @property
    def iteration(self) -> int | None:
        """The job's present iteration; None for a service that is not a job."""
        return None if self.job_status is None else self.job_status.iteration
