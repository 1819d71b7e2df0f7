"""The fields of a service spec that Weft understands, as they are in the JSON, and the fields that
Weft lacks and `decoding.decode` refuses.

This file holds only types, ranges and defaults of absent fields; `schema/service.py` gives them
meaning.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from weft.api.schema.common import FEW, Count, Short, Signed, Wire
from weft.api.schema.generic import GenericWire
from weft.api.schema.healthcheck import HealthCheckWire
from weft.api.schema.mount import MountWire
from weft.api.schema.privileges import PrivilegesWire
from weft.api.schema.reference import ConfigWire, SecretWire


class UlimitWire(Wire, frozen=True):
    name: str
    hard: Signed = 0
    soft: Signed = 0
    """-1: no limit."""


class DnsWire(Wire, frozen=True):
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class ContainerWire(Wire, frozen=True):
    image: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    hostname: str = ""
    env: tuple[str, ...] = ()
    dir: str = ""
    user: str = ""
    groups: tuple[str, ...] = ()
    stop_signal: str = ""
    tty: bool = field(name="TTY", default=False)
    open_stdin: bool = False
    read_only: bool = False
    mounts: Annotated[tuple[MountWire, ...], FEW] = ()
    stop_grace_period: Count | None = None
    hosts: tuple[str, ...] = ()
    secrets: Annotated[tuple[SecretWire, ...], FEW] = ()
    configs: Annotated[tuple[ConfigWire, ...], FEW] = ()
    dns: DnsWire | None = field(name="DNSConfig", default=None)
    isolation: Literal["", "default"] = ""
    init: bool | None = None
    healthcheck: HealthCheckWire | None = None
    sysctls: dict[str, str] = field(default_factory=dict)
    cap_add: tuple[str, ...] = field(name="CapabilityAdd", default=())
    cap_drop: tuple[str, ...] = field(name="CapabilityDrop", default=())
    oom_score_adj: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    privileges: PrivilegesWire | None = None
    ulimits: Annotated[tuple[UlimitWire, ...], FEW] = ()


class LimitsWire(Wire, frozen=True):
    nano_cpus: Count = field(name="NanoCPUs", default=0)
    memory: Count = field(name="MemoryBytes", default=0)
    pids: Count = 0


class ReservationsWire(Wire, frozen=True):
    nano_cpus: Count = field(name="NanoCPUs", default=0)
    memory: Count = field(name="MemoryBytes", default=0)
    generic_resources: Annotated[tuple[GenericWire, ...], FEW] = ()


class ResourcesWire(Wire, frozen=True):
    lacks: ClassVar[tuple[str, ...]] = ("SwapBytes", "MemorySwappiness")

    limits: LimitsWire | None = None
    reservations: ReservationsWire | None = None


class RestartWire(Wire, frozen=True):
    condition: Literal["", "none", "on-failure", "any"] = ""
    delay: Count | None = None
    max_attempts: Count = 0
    window: Count | None = None


class SpreadWire(Wire, frozen=True):
    descriptor: str = field(name="SpreadDescriptor", default="")


class PreferenceWire(Wire, frozen=True):
    spread: SpreadWire = SpreadWire()


class PlatformWire(Wire, frozen=True):
    architecture: str = ""
    os: str = field(name="OS", default="")


class PlacementWire(Wire, frozen=True):
    constraints: Annotated[tuple[str, ...], FEW] = ()
    preferences: Annotated[tuple[PreferenceWire, ...], FEW] = ()
    max_replicas: Count = 0
    platforms: Annotated[tuple[PlatformWire, ...], FEW] = ()


class AttachmentWire(Wire, frozen=True):
    target: str
    aliases: tuple[str, ...] = ()
    driver_opts: dict[str, str] = field(default_factory=dict)


class LogDriverWire(Wire, frozen=True):
    name: str = ""
    options: dict[str, str] = field(default_factory=dict)


class TaskWire(Wire, frozen=True):
    lacks: ClassVar[tuple[str, ...]] = ("PluginSpec", "NetworkAttachmentSpec")

    container_spec: ContainerWire | None = None
    resources: ResourcesWire | None = None
    restart_policy: RestartWire | None = None
    placement: PlacementWire | None = None
    networks: Annotated[tuple[AttachmentWire, ...], FEW] = ()
    log_driver: LogDriverWire | None = None
    force_update: Count = 0
    runtime: Literal["", "container"] = ""


class ReplicatedWire(Wire, frozen=True):
    replicas: Count | None = None


class GlobalWire(Wire, frozen=True):
    pass


class ReplicatedJobWire(Wire, frozen=True):
    max_concurrent: Count | None = None
    total_completions: Count | None = None


class ModeWire(Wire, frozen=True):
    replicated: ReplicatedWire | None = None
    every: GlobalWire | None = field(name="Global", default=None)
    replicated_job: ReplicatedJobWire | None = None
    global_job: GlobalWire | None = None


class UpdateWire(Wire, frozen=True):
    parallelism: Count = 0
    delay: Count = 0
    failure_action: Literal["", "pause", "continue", "rollback"] = ""
    monitor: Count = 0
    max_failure_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.0
    order: Literal["", "stop-first", "start-first"] = ""


class PortWire(Wire, frozen=True):
    name: str = ""
    protocol: Literal["", "tcp", "udp", "sctp"] = ""
    target_port: Short = 0
    published_port: Short = 0
    publish_mode: Literal["", "ingress", "host"] = ""


class EndpointWire(Wire, frozen=True):
    mode: Literal["", "vip", "dnsrr"] = ""
    ports: tuple[PortWire, ...] = ()


class ServiceWire(Wire, frozen=True):
    name: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    task_template: TaskWire = TaskWire()
    mode: ModeWire = ModeWire()
    update_config: UpdateWire | None = None
    rollback_config: UpdateWire | None = None
    networks: Annotated[tuple[AttachmentWire, ...], FEW] = ()
    endpoint_spec: EndpointWire | None = None
