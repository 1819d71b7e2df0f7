"""The fields of a request for a plain container that Weft understands, as they are in the JSON, and
the fields that Weft lacks and `decoding.decode` refuses.

This file holds only types, ranges and defaults of absent fields; `schema/container_request.py`
gives them meaning."""

from typing import Annotated, ClassVar

from msgspec import Meta, field

from weft.api.schema.common import FEW, Count, Json, Short, Signed, Wire
from weft.api.schema.healthcheck import HealthCheckWire
from weft.api.schema.mount import MountWire
from weft.api.schema.service_wire import UlimitWire

Words = Annotated[tuple[str, ...], Meta(max_length=100_000)]
"""A command line."""


class LogConfigWire(Wire, frozen=True):
    type: str = ""
    config: dict[str, str] = field(default_factory=dict)


class BindingWire(Wire, frozen=True):
    host_ip: str = ""
    host_port: str = ""


class RestartPolicyWire(Wire, frozen=True):
    name: str = ""
    maximum_retry_count: Signed = 0


class DeviceWire(Wire, frozen=True):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequestWire(Wire, frozen=True):
    driver: str = ""
    count: Signed = 0
    device_ids: Annotated[tuple[str, ...], FEW] = field(name="DeviceIDs", default=())
    capabilities: Annotated[tuple[tuple[str, ...], ...], FEW] = ()
    options: dict[str, str] = field(default_factory=dict)


class WeightWire(Wire, frozen=True):
    path: str = ""
    weight: Short = 0


class RateWire(Wire, frozen=True):
    path: str = ""
    rate: Count = 0


class LimitsWire(Wire, frozen=True):
    """The limits that a container is made with, and that an update may change, as in Docker."""

    cpu_shares: Signed = 0
    memory: Signed = 0
    nano_cpus: Signed = 0
    blkio_weight: Short = 0
    cpu_period: Signed = 0
    cpu_quota: Signed = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_reservation: Signed = 0
    memory_swap: Signed = 0


class HostConfigWire(LimitsWire, frozen=True):
    lacks: ClassVar[tuple[str, ...]] = (
        "Links", "Cgroup", "StorageOpt", "CpuRealtimePeriod", "CpuRealtimeRuntime", "KernelMemory",
        "KernelMemoryTCP", "CpuCount", "CpuPercent", "IOMaximumIOps", "IOMaximumBandwidth",
    )  # fmt: skip

    blkio_weight_device: Annotated[tuple[WeightWire, ...], FEW] = ()
    blkio_device_read_bps: Annotated[tuple[RateWire, ...], FEW] = ()
    blkio_device_write_bps: Annotated[tuple[RateWire, ...], FEW] = ()
    blkio_device_read_iops: Annotated[tuple[RateWire, ...], FEW] = field(
        name="BlkioDeviceReadIOps", default=()
    )
    blkio_device_write_iops: Annotated[tuple[RateWire, ...], FEW] = field(
        name="BlkioDeviceWriteIOps", default=()
    )
    memory_swappiness: Signed | None = None
    oom_kill_disable: bool = False
    binds: Annotated[tuple[str, ...], FEW] = ()
    container_id_file: str = field(name="ContainerIDFile", default="")
    log_config: LogConfigWire = LogConfigWire()
    network_mode: str = ""
    port_bindings: dict[str, tuple[BindingWire, ...]] = field(default_factory=dict)
    restart_policy: RestartPolicyWire = RestartPolicyWire()
    auto_remove: bool = False
    volumes_from: Annotated[tuple[str, ...], FEW] = ()
    volume_driver: str = ""
    console_size: tuple[Short, Short] | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    cgroupns_mode: str = ""
    cgroup_parent: str = ""
    dns: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    group_add: tuple[str, ...] = ()
    ipc_mode: str = ""
    oom_score_adj: Signed = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: tuple[str, ...] = ()
    tmpfs: dict[str, str] = field(default_factory=dict)
    uts_mode: str = field(name="UTSMode", default="")
    userns_mode: str = ""
    shm_size: Signed = 0
    sysctls: dict[str, str] = field(default_factory=dict)
    runtime: str = ""
    isolation: str = ""
    mounts: Annotated[tuple[MountWire, ...], FEW] = ()
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    init: bool | None = None
    devices: Annotated[tuple[DeviceWire, ...], FEW] = ()
    device_cgroup_rules: Annotated[tuple[str, ...], FEW] = ()
    device_requests: Annotated[tuple[DeviceRequestWire, ...], FEW] = ()
    ulimits: Annotated[tuple[UlimitWire, ...], FEW] = ()
    pids_limit: Signed = 0


class EndpointIpamWire(Wire, frozen=True):
    lacks: ClassVar[tuple[str, ...]] = ("LinkLocalIPs",)

    ipv4_address: str = field(name="IPv4Address", default="")
    ipv6_address: str = field(name="IPv6Address", default="")


class EndpointSettingsWire(Wire, frozen=True):
    """The other fields that the API has here say what the daemon has chosen; clients send them
    back, and Docker ignores them."""

    lacks: ClassVar[tuple[str, ...]] = ("Links", "GwPriority")

    ipam_config: EndpointIpamWire | None = field(name="IPAMConfig", default=None)
    aliases: Annotated[tuple[str, ...], FEW] = ()
    driver_opts: dict[str, str] = field(default_factory=dict)
    mac_address: str = ""


class NetworkingWire(Wire, frozen=True):
    endpoints_config: dict[str, EndpointSettingsWire | None] = field(default_factory=dict)


class NewContainerWire(Wire, frozen=True):
    """`POST /containers/create`"""

    lacks: ClassVar[tuple[str, ...]] = ("NetworkDisabled", "OnBuild", "ArgsEscaped")

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Json] = field(default_factory=dict)
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: tuple[str, ...] = ()
    cmd: str | Words = ()
    healthcheck: HealthCheckWire | None = None
    image: str = ""
    volumes: dict[str, Json] = field(default_factory=dict)
    working_dir: str = ""
    entrypoint: str | Words = ()
    mac_address: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    stop_timeout: Signed | None = None
    shell: tuple[str, ...] = ()
    """Has no effect on Linux except on what is built from the container; shown nowhere."""
    host_config: HostConfigWire = HostConfigWire()
    networking_config: NetworkingWire = NetworkingWire()


class UpdateContainerWire(LimitsWire, frozen=True):
    """`POST /containers/{id}/update`"""

    lacks: ClassVar[tuple[str, ...]] = (
        "CgroupParent", "CpuRealtimePeriod", "CpuRealtimeRuntime", "DeviceCgroupRules", "DeviceRequests", "KernelMemory",
        "KernelMemoryTCP", "CpuCount", "CpuPercent", "IOMaximumIOps", "IOMaximumBandwidth", "Devices", "Ulimits", "Init",
        "BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps",
        "MemorySwappiness", "OomKillDisable",
    )  # fmt: skip

    restart_policy: RestartPolicyWire = RestartPolicyWire()
    pids_limit: Signed | None = None
    """None: as it is; up to 0: no limit."""
