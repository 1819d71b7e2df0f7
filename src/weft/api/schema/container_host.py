"""`HostConfig` of a container, as `inspect` shows it: what ties the container to its host.

A plain container's shows the request as it was written. Fields of Docker that Weft has no
counterpart for are printed with the value that they have in a container of a service."""

from collections.abc import Sequence
from typing import Any

from weft.api.schema.common import Json, omit_empty
from weft.api.schema.mount import mount_json
from weft.model.container import Confinement, Container
from weft.model.device import Device
from weft.model.device_request import DeviceRequest
from weft.model.limits import DeviceLimits, Throttle
from weft.model.plain_container import PlainContainer
from weft.model.service import ContainerSpec

UNUSED: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (None, ("Links",)),
    (0, (
        "CpuRealtimePeriod", "CpuRealtimeRuntime", "CpuCount", "CpuPercent", "IOMaximumIOps",
        "IOMaximumBandwidth",
    )),
    ("", ("Cgroup",)),
)  # fmt: skip
"""Fields of `HostConfig` that no container in Weft uses, with the values that clients see."""
_DEFAULT_SHM = 64 << 20
_TASK = PlainContainer()
"""What the container of a task has where a plain one has settings of its own."""


def host_config_json(container: Container) -> Json:
    body: dict[str, Any] = {name: value for value, names in UNUSED for name in names}
    return (
        body | _confinement_json(container) | _network_json(container) | _limits_json(container)
        | _plain_json(container) | _spec_json(container)
    )  # fmt: skip


def _spec_json(container: Container) -> Json:
    config, spec = container.config, container.config.spec
    return {
        "LogConfig": {"Type": config.log_driver, "Config": config.log_options},
        "ConsoleSize": list(config.console_size),
        "CapAdd": list(spec.cap_add) or None,
        "CapDrop": list(spec.cap_drop) or None,
        "GroupAdd": list(spec.groups) or None,
        "Devices": [_device_json(device) for device in spec.devices] or None,
        "ReadonlyRootfs": spec.read_only,
        "ShmSize": config.shm_size or _DEFAULT_SHM,
        "Runtime": "runc",
        "Isolation": "default",
        "Ulimits": [
            {"Name": limit.name, "Hard": limit.hard, "Soft": limit.soft} for limit in spec.ulimits
        ],
        "Sysctls": spec.sysctls or None,
        "OomScoreAdj": spec.oom_score_adj,
        "Init": spec.init,
    }


def _confinement_json(container: Container) -> Json:
    confinement, privileges = container.confinement, container.config.spec.privileges
    plain = container.config.plain or _TASK
    own = "private" if confinement.cgroup_namespace else "host"
    written = list(plain.written.security_options)
    return {
        "Privileged": privileges.privileged,
        "MaskedPaths": None if privileges.privileged else list(confinement.masked_paths),
        "ReadonlyPaths": None if privileges.privileged else list(confinement.read_only_paths),
        "SecurityOpt": written or _security_options(container) or None,
        "CgroupnsMode": plain.modes.cgroup or own,
        "CgroupParent": plain.cgroup_parent,
        "IpcMode": plain.modes.ipc or "private",
        "PidMode": plain.modes.pid,
        "UTSMode": plain.modes.uts,
        "UsernsMode": plain.modes.user,
    }


def _network_json(container: Container) -> Json:
    spec, plain = container.config.spec, container.config.plain
    bound = bindings(container) if plain is None else _asked_bindings(plain)
    extra = _extra_hosts(spec) if plain is None else list(plain.written.extra_hosts)
    return {
        "NetworkMode": network_mode(container),
        "PortBindings": bound,
        "PublishAllPorts": plain is not None and plain.publish_all,
        "Dns": list(spec.dns_servers) or None,
        "DnsOptions": list(spec.dns_options) or None,
        "DnsSearch": list(spec.dns_search) or None,
        "ExtraHosts": extra or None,
    }


def _plain_json(container: Container) -> Json:
    plain = container.config.plain or _TASK
    written = plain.written
    mounts = written.mounts if container.is_plain else container.config.spec.mounts
    return {
        "RestartPolicy": {
            "Name": plain.restart.name,
            "MaximumRetryCount": plain.restart.most,
        },
        "AutoRemove": plain.auto_remove,
        "Binds": list(written.binds) or None,
        "VolumesFrom": list(written.volumes_from) or None,
        "VolumeDriver": written.volume_driver,
        "ContainerIDFile": written.id_file,
        "DeviceCgroupRules": [str(rule) for rule in plain.device_rules] or None,
        "DeviceRequests": [_request_json(each) for each in plain.device_requests] or None,
        **omit_empty({
            "Tmpfs": written.tmpfs, "Annotations": written.annotations,
            "Mounts": [mount_json(mount) for mount in mounts],
        }),
    }  # fmt: skip


def _limits_json(container: Container) -> Json:
    limits, further = container.config.limits, container.config.further
    devices = further.devices
    killing = further.oom_kill_disable
    return {
        "Memory": limits.memory,
        "MemorySwap": container.memory_swap,
        "MemoryReservation": further.memory_reservation,
        "MemorySwappiness": further.swappiness,
        "NanoCpus": limits.nano_cpus,
        "CpuShares": further.cpu_shares,
        "CpuPeriod": further.cpu_period,
        "CpuQuota": further.cpu_quota,
        "CpusetCpus": further.cpuset_cpus,
        "CpusetMems": further.cpuset_mems,
        "PidsLimit": limits.pids or None,
        "OomKillDisable": killing if _can_stop_killing(container.confinement) else None,
        "BlkioWeight": devices.weight,
        **_devices_json(devices),
    }


def _can_stop_killing(confinement: Confinement) -> bool:
    """Version 2 of control groups cannot keep the kernel from killing. A container that was made
    before its record had the version has a namespace with version 2 only."""
    return confinement.cgroup_version_1 or not confinement.cgroup_namespace


def _devices_json(limits: DeviceLimits) -> Json:
    def rows(throttles: Sequence[Throttle], field: str) -> list[Json] | None:
        return [{"Path": throttle.path, field: throttle.rate} for throttle in throttles] or None

    return {
        "BlkioWeightDevice": rows(limits.weights, "Weight"),
        "BlkioDeviceReadBps": rows(limits.read_bytes, "Rate"),
        "BlkioDeviceWriteBps": rows(limits.write_bytes, "Rate"),
        "BlkioDeviceReadIOps": rows(limits.read_operations, "Rate"),
        "BlkioDeviceWriteIOps": rows(limits.write_operations, "Rate"),
    }


def _device_json(device: Device) -> Json:
    return {
        "PathOnHost": device.source,
        "PathInContainer": device.target,
        "CgroupPermissions": device.access,
    }


def _request_json(request: DeviceRequest) -> Json:
    return {
        "Driver": request.driver,
        "Count": request.count,
        "DeviceIDs": list(request.ids) or None,
        "Capabilities": [list(names) for names in request.capabilities] or None,
        "Options": request.options or None,
    }


def _security_options(container: Container) -> list[str]:
    privileges, options = container.config.spec.privileges, list[str]()
    if privileges.privileged:
        options.append("label=disable")
    if privileges.no_new_privileges:
        options.append("no-new-privileges=true")
    if privileges.apparmor == "disabled":
        options.append("apparmor=unconfined")
    if privileges.seccomp != "default":
        profile = privileges.seccomp_profile.decode(errors="replace")
        options.append(f"seccomp={profile or privileges.seccomp}")
    return options


def bindings(container: Container, unnamed: str = "") -> Json:
    """The ports of this host that lead to the container. `unnamed`: shown for all addresses."""
    found: dict[str, list[Json]] = {}
    for port in container.config.ports:
        at = found.setdefault(f"{port.target}/{port.protocol}", [])
        address = str(port.host_address or unnamed)
        at.append({"HostIp": address, "HostPort": str(port.published)})
    return found


def _asked_bindings(plain: PlainContainer) -> Json:
    found: dict[str, list[Json]] = {}
    for binding in plain.ports:
        at = found.setdefault(f"{binding.target}/{binding.protocol}", [])
        at.append({"HostIp": binding.address, "HostPort": binding.ports})
    return found


def _extra_hosts(spec: ContainerSpec) -> list[str]:
    """`name:address` for each name in each line of the hosts file."""
    return [f"{name}:{line.split()[0]}" for line in spec.hosts for name in line.split()[1:]]


def network_mode(container: Container) -> str:
    """As the user wrote it; `default` has been the network `bridge` since API 1.44."""
    if container.config.plain is not None:
        mode = container.config.plain.modes.network
        return "bridge" if mode == "default" else mode
    return "host" if container.config.namespace is None else "bridge"
