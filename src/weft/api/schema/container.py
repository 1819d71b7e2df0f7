"""Containers and commands in them: requests, and the JSON of `list` and `inspect`.

The runtime knows a container's own values, the agent knows its networks; `ContainerContext` brings
both together. Fields of Docker that Weft has no counterpart for are printed with the value that
they have in a container of a service.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import msgspec

from weft.api.schema.common import Json, Short, Wire, human_duration, omit_empty, rfc3339
from weft.api.schema.healthcheck import health_check_json, health_json, health_text
from weft.api.schema.mount import mount_json, mount_point_json
from weft.model.addresses import mac_for
from weft.model.container import Container, ContainerState, ImageConfig
from weft.model.device import Device
from weft.model.health import Health
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.meta import SECOND, Nanoseconds
from weft.model.service import ContainerSpec
from weft.runtime.base import Exec


class ContainerContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the node knows about a container beside the container's own record."""

    image: ImageConfig = ImageConfig()
    """Configuration of the image that the container was made from; empty if the image is gone."""
    networks: Mapping[str, tuple[LocalNetwork, LocalEndpoint]] = msgspec.field(default_factory=dict)
    gateway: LocalEndpoint | None = None
    execs: tuple[str, ...] = ()
    health: Health | None = None


class ExecWire(Wire, frozen=True):
    """`POST /containers/{id}/exec`"""

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: tuple[Short, Short] | None = None
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    detach: bool = False
    detach_keys: str = ""
    env: tuple[str, ...] = ()
    working_dir: str = ""
    cmd: tuple[str, ...] = ()


class ExecStartWire(Wire, frozen=True):
    """`POST /exec/{id}/start`"""

    detach: bool = False
    tty: bool = False
    console_size: tuple[Short, Short] | None = None


# --- model -> JSON


def status_text(container: Container, now: Nanoseconds, health: Health | None = None) -> str:
    """`Up 5 minutes (healthy)`, `Exited (0) 3 seconds ago`, as `docker ps` prints it."""
    match container.state:
        case ContainerState.RUNNING:
            suffix = "" if health is None else health_text(health)
            return f"Up {human_duration(now - container.started_at)}{suffix}"
        case ContainerState.EXITED:
            return (
                f"Exited ({container.exit_code}) {human_duration(now - container.finished_at)} ago"
            )
        case ContainerState.DEAD:
            return "Dead"
    return "Created"


def container_summary_json(
    container: Container,
    environment: ContainerContext,
    now: Nanoseconds,
    sizes: tuple[int, int] | None = None,
) -> Json:
    """`sizes`: bytes that the container has written, and of all its files."""
    config = container.config
    return {
        "Id": container.id,
        "Names": [f"/{config.name}"],
        "Image": config.spec.image,
        "ImageID": container.image,
        "Command": " ".join(container.args),
        "Created": container.created_at // SECOND,
        "Ports": port_list(container, environment.image)
        if container.state == ContainerState.RUNNING
        else [],
        "Labels": config.labels,
        "State": str(container.state),
        "Status": status_text(container, now, environment.health),
        "HostConfig": {"NetworkMode": _network_mode(container)},
        "NetworkSettings": {"Networks": _networks_json(container, environment)},
        "Mounts": [mount_point_json(point) for point in config.mount_points],
    } | (omit_empty({"SizeRw": sizes[0], "SizeRootFs": sizes[1]}) if sizes else {})


def container_json(
    container: Container, environment: ContainerContext, sizes: tuple[int, int] | None = None
) -> Json:
    config = container.config
    directory = PurePath(container.log_path).parent
    return {
        "Id": container.id,
        "Created": rfc3339(container.created_at),
        "Path": container.args[0] if container.args else "",
        "Args": list(container.args[1:]),
        "State": _state_json(container, environment.health),
        "Image": container.image,
        "ResolvConfPath": str(directory / "resolv.conf"),
        "HostnamePath": str(directory / "hostname"),
        "HostsPath": str(directory / "hosts"),
        "LogPath": container.log_path,
        "Name": f"/{config.name}",
        "RestartCount": 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": container.confinement.apparmor_profile,
        "ExecIDs": list(environment.execs) or None,
        "HostConfig": _host_config_json(container),
        "GraphDriver": {"Data": None, "Name": "overlay2"},
        "Mounts": [mount_point_json(point) for point in config.mount_points],
        "Config": _config_json(container, environment.image),
        "NetworkSettings": _network_settings_json(container, environment),
    } | ({"SizeRw": sizes[0], "SizeRootFs": sizes[1]} if sizes else {})


def _state_json(container: Container, health: Health | None) -> Json:
    state = container.state
    return {
        "Status": str(state),
        "Running": state == ContainerState.RUNNING,
        "Paused": False,
        "Restarting": False,
        "OOMKilled": container.oom_killed,
        "Dead": state == ContainerState.DEAD,
        "Pid": container.pid,
        "ExitCode": container.exit_code,
        "Error": container.error,
        "StartedAt": rfc3339(container.started_at),
        "FinishedAt": rfc3339(container.finished_at),
        **({} if health is None else {"Health": health_json(health)}),
    }


def _config_json(container: Container, image: ImageConfig) -> Json:
    config, spec = container.config, container.config.spec
    command = list(spec.args) if spec.command or spec.args else list(image.cmd)
    return {
        "Hostname": config.hostname,
        "Domainname": "",
        "User": spec.user or image.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        **omit_empty({"ExposedPorts": {port: {} for port in _exposed(container, image)}}),
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": False,
        "Env": list(container.env) or None,
        "Cmd": command or None,
        "Image": spec.image,
        "Volumes": {volume: {} for volume in image.volumes} or None,
        "WorkingDir": spec.dir or image.working_dir,
        "Entrypoint": list(spec.command or image.entrypoint) or None,
        "OnBuild": None,
        "Labels": config.labels,
        **(
            {"StopSignal": spec.stop_signal or image.stop_signal}
            if spec.stop_signal or image.stop_signal
            else {}
        ),
        **(
            {"Healthcheck": health_check_json(container.healthcheck)}
            if container.healthcheck is not None
            else {}
        ),
        **({"Shell": list(image.shell)} if image.shell else {}),
    }


UNUSED: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (None, (
        "Binds", "VolumesFrom", "Links", "BlkioWeightDevice", "BlkioDeviceReadBps",
        "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps",
        "DeviceCgroupRules", "DeviceRequests", "MemorySwappiness",
    )),
    (0, (
        "CpuShares", "BlkioWeight", "CpuPeriod", "CpuQuota", "CpuRealtimePeriod",
        "CpuRealtimeRuntime", "MemoryReservation", "CpuCount", "CpuPercent",
        "IOMaximumIOps", "IOMaximumBandwidth",
    )),
    ("", (
        "ContainerIDFile", "VolumeDriver", "Cgroup", "PidMode", "UTSMode", "UsernsMode",
        "CgroupParent", "CpusetCpus", "CpusetMems",
    )),
)  # fmt: skip
"""Fields of `HostConfig` that no container in Weft uses, with the values that clients see."""


def _host_config_json(container: Container) -> Json:
    config, spec, limits = container.config, container.config.spec, container.config.limits
    confinement, privileged = container.confinement, spec.privileges.privileged
    body: dict[str, Any] = {name: value for value, names in UNUSED for name in names}
    return body | {
        "LogConfig": {"Type": config.log_driver, "Config": config.log_options},
        "NetworkMode": _network_mode(container),
        "PortBindings": _bindings(container, ("",)),
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,
        "ConsoleSize": [0, 0],
        "CapAdd": list(spec.cap_add) or None,
        "CapDrop": list(spec.cap_drop) or None,
        "CgroupnsMode": "private" if confinement.cgroup_namespace else "host",
        "Dns": list(spec.dns_servers) or None,
        "DnsOptions": list(spec.dns_options) or None,
        "DnsSearch": list(spec.dns_search) or None,
        "ExtraHosts": _extra_hosts(spec) or None,
        "GroupAdd": list(spec.groups) or None,
        "IpcMode": "private",
        "Devices": [_device_json(device) for device in spec.devices] or None,
        "Privileged": privileged,
        "PublishAllPorts": False,
        "ReadonlyRootfs": spec.read_only,
        "ShmSize": 67108864,
        "Runtime": "runc",
        "Isolation": "default",
        "Memory": limits.memory,
        "MemorySwap": container.memory_swap,
        "NanoCpus": limits.nano_cpus,
        "PidsLimit": limits.pids or None,
        "Ulimits": [
            {"Name": limit.name, "Hard": limit.hard, "Soft": limit.soft} for limit in spec.ulimits
        ],
        "Sysctls": spec.sysctls or None,
        **omit_empty({"Mounts": [mount_json(mount) for mount in spec.mounts]}),
        "MaskedPaths": None if privileged else list(confinement.masked_paths),
        "ReadonlyPaths": None if privileged else list(confinement.read_only_paths),
        # Version 2 of control groups cannot keep the kernel from killing.
        "OomScoreAdj": spec.oom_score_adj,
        "SecurityOpt": _security_options(container) or None,
        "OomKillDisable": None if confinement.cgroup_namespace else False,
        "Init": spec.init,
    }


def _device_json(device: Device) -> Json:
    return {
        "PathOnHost": device.source,
        "PathInContainer": device.target,
        "CgroupPermissions": device.access,
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


def _exposed(container: Container, image: ImageConfig) -> list[str]:
    """Ports that the image exposes and ports that are published, each as `80/tcp`."""
    published = ((port.target, port.protocol) for port in container.config.ports)
    return list(
        dict.fromkeys(f"{port}/{protocol}" for port, protocol in (*image.exposed_ports, *published))
    )


def _bindings(container: Container, addresses: Sequence[str]) -> Json:
    bindings: dict[str, list[Json]] = {}
    for port in container.config.ports:
        at = bindings.setdefault(f"{port.target}/{port.protocol}", [])
        hosts = addresses if port.host_address is None else (str(port.host_address),)
        at += [{"HostIp": address, "HostPort": str(port.published)} for address in hosts]
    return bindings


def port_list(container: Container, image: ImageConfig) -> list[Json]:
    published = [
        {
            "IP": str(port.host_address or "0.0.0.0"),
            "PrivatePort": port.target,
            "PublicPort": port.published,
            "Type": port.protocol,
        }
        for port in container.config.ports
    ]
    targets = {(port.target, port.protocol) for port in container.config.ports}
    others = [
        {"PrivatePort": n, "Type": protocol}
        for n, protocol in image.exposed_ports
        if (n, protocol) not in targets
    ]
    return published + others


def _extra_hosts(spec: ContainerSpec) -> list[str]:
    """`name:address` for each name in each line of the hosts file."""
    return [f"{name}:{line.split()[0]}" for line in spec.hosts for name in line.split()[1:]]


def _network_mode(container: Container) -> str:
    return "host" if container.config.namespace is None else "bridge"


def _network_settings_json(container: Container, environment: ContainerContext) -> Json:
    sandbox = container.config.sandbox_id if container.state == ContainerState.RUNNING else ""
    exposed: Json = dict.fromkeys(_exposed(container, environment.image))
    ports = exposed | _bindings(container, ("0.0.0.0",)) if sandbox else {}
    return {
        "Bridge": "",
        "SandboxID": sandbox,
        "SandboxKey": str(container.config.namespace or "") if sandbox else "",
        "Ports": ports,
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": "",
        "Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "MacAddress": "",
        "Networks": _networks_json(container, environment),
    }


def _networks_json(container: Container, environment: ContainerContext) -> Json:
    return {
        name: _attachment_json(container, *place) for name, place in environment.networks.items()
    }


def _attachment_json(container: Container, network: LocalNetwork, endpoint: LocalEndpoint) -> Json:
    address = endpoint.address.ip
    return {
        "IPAMConfig": {"IPv4Address": str(address)},
        "Links": None,
        "Aliases": None,
        "MacAddress": mac_for(address),
        "NetworkID": network.id,
        "EndpointID": endpoint.endpoint_id,
        "Gateway": "",
        "IPAddress": str(address),
        "IPPrefixLen": endpoint.address.network.prefixlen,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DriverOpts": None,
        "GwPriority": 0,
        "DNSNames": list(
            dict.fromkeys((container.config.name, container.id[:12], *endpoint.aliases))
        ),
    }


def exec_json(exec: Exec, attached: tuple[bool, bool, bool], exit_code: int | None) -> Json:
    """`attached`: whether stdin, stdout and stderr are attached."""
    return {
        "ID": exec.id,
        "Running": exec.running,
        "ExitCode": exit_code,
        "ProcessConfig": {
            "tty": exec.tty,
            "entrypoint": exec.argv[0] if exec.argv else "",
            "arguments": list(exec.argv[1:]),
            "privileged": exec.privileged,
        },
        "OpenStdin": attached[0],
        "OpenStderr": attached[2],
        "OpenStdout": attached[1],
        "CanRemove": exit_code is not None,
        "ContainerID": exec.container,
        "DetachKeys": "",
        "Pid": exec.pid,
    }
