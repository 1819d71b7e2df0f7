"""Plain containers: what the JSON of a request means.

Fields that a service has as well get the same values in the model. This file refuses what the model
has no place for, with the field and the value; `control.requests.containers` decides whether a
container makes sense."""

import re
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import cast, get_args

import msgspec

from weft.api.schema.bridge_network import mac_from
from weft.api.schema.common import parse_address
from weft.api.schema.container_wire import (
    BindingWire,
    DeviceRequestWire,
    DeviceWire,
    EndpointSettingsWire,
    HostConfigWire,
    LimitsWire,
    NewContainerWire,
    RateWire,
    RestartPolicyWire,
    UpdateContainerWire,
    WeightWire,
)
from weft.api.schema.endpoint_options import options_from
from weft.api.schema.healthcheck import health_check_from
from weft.api.schema.mount import mount_from
from weft.api.schema.mounts_written import mounts_from
from weft.api.schema.network_ipv6 import ipv6_address_from
from weft.api.schema.security_options import privileges_written
from weft.errors import InvalidArgument, Unsupported, clip
from weft.model.addresses import Port, Protocol
from weft.model.container_request import ContainerRequest
from weft.model.device import Device, DeviceRule
from weft.model.device_request import DeviceRequest
from weft.model.endpoint_settings import EndpointSettings
from weft.model.limits import DeviceLimits, FurtherLimits, Throttle
from weft.model.log_options import DEFAULT
from weft.model.meta import SECOND
from weft.model.numbers import decimal
from weft.model.plain_container import (
    JOINED,
    AsWritten,
    NamespaceModes,
    PlainContainer,
    PortBinding,
    RestartName,
    RestartRule,
    has_no_networks,
)
from weft.model.service import ContainerSpec, Mount, Resources, Ulimit

Find = Callable[[str], str]
"""Finds the id of the container that a user names. Raises `NotFound`."""
MAX_PORT = 2**16 - 1
_RULE = re.compile(r"([acb]) ([0-9]{1,9}|\*):([0-9]{1,9}|\*) ([rwm]{1,3})")
_RUNTIMES = ("", "runc", "io.containerd.runc.v2")
_DEFAULT_NETWORK = "bridge"
_IPC_MODES = ("", "none", "private", "shareable", "host")


def request_from(
    wire: NewContainerWire,
    name: str,
    find: Find,
    inherited: tuple[Mount, ...],
    *,
    read_only_trees: bool = True,
) -> ContainerRequest:
    """`inherited`: the mounts of the containers of `VolumesFrom`. `read_only_trees`: see
    `bind_from`. Raises `InvalidArgument`, `Unsupported`, or the errors of `find`."""
    host = wire.host_config
    if host.runtime not in _RUNTIMES:
        raise InvalidArgument(f"unknown or invalid runtime name: {clip(host.runtime)}")
    if host.isolation not in ("", "default"):
        raise InvalidArgument(
            f"invalid isolation ({clip(host.isolation)}): linux only supports 'default'"
        )
    if host.volume_driver not in ("", "local"):
        raise Unsupported(
            f"HostConfig.VolumeDriver: the driver {clip(host.volume_driver)} is not supported by"
            " Weft, which has local"
        )
    modes = _modes_from(host, find)
    return ContainerRequest(
        name=name,
        spec=_spec_from(wire, mounts_from(host, wire.volumes, inherited, read_only_trees)),
        plain=_plain_from(wire, modes),
        limits=limits_from(host),
        further=further_from(host),
        log_driver=host.log_config.type or DEFAULT,
        log_options=host.log_config.config,
        stdin_once=wire.stdin_once,
        shm_size=host.shm_size,
        console_size=host.console_size or (0, 0),
    )


def _spec_from(wire: NewContainerWire, mounts: tuple[Mount, ...]) -> ContainerSpec:
    host = wire.host_config
    timeout = wire.stop_timeout
    return ContainerSpec(
        image=wire.image,
        labels=wire.labels,
        command=_words(wire.entrypoint),
        args=_words(wire.cmd),
        hostname=wire.hostname,
        env=wire.env,
        dir=wire.working_dir,
        user=wire.user,
        groups=host.group_add,
        stop_signal=wire.stop_signal,
        tty=wire.tty,
        open_stdin=wire.open_stdin,
        read_only=host.readonly_rootfs,
        mounts=mounts,
        stop_grace_period=10 * SECOND if timeout is None else max(timeout, 0) * SECOND,
        hosts=tuple(_host_line(each) for each in host.extra_hosts),
        dns_servers=host.dns,
        dns_search=host.dns_search,
        dns_options=host.dns_options,
        init=host.init,
        oom_score_adj=host.oom_score_adj,
        privileges=privileges_written(host),
        healthcheck=health_check_from(wire.healthcheck),
        sysctls=host.sysctls,
        cap_add=host.cap_add,
        cap_drop=host.cap_drop,
        ulimits=tuple(Ulimit(limit.name, limit.soft, limit.hard) for limit in host.ulimits),
        devices=tuple(_device_from(device) for device in host.devices),
    )


def _words(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Docker takes one text for a list of one word."""
    return (value,) if isinstance(value, str) else value


def _host_line(text: str) -> str:
    """A line for /etc/hosts from `name:address` or `name=address`."""
    mark = "=" if "=" in text else ":"
    name, _, address = text.partition(mark)
    if not name or not address:
        raise InvalidArgument(f'bad format for add-host: "{clip(text)}"')
    if address != "host-gateway":
        inner = address.removeprefix("[").removesuffix("]")
        _check_address(inner, text)
        address = inner
    return f"{address} {name}"


def _check_address(address: str, text: str) -> None:
    parts = address.split(":") if ":" in address else ()
    if not parts:
        parse_address(address, IPv4Address, f"HostConfig.ExtraHosts: {clip(text)}")
    elif any(part.strip("0123456789abcdefABCDEF.") for part in parts):
        raise InvalidArgument(f'invalid IP address in add-host: "{clip(text)}"')


def _device_from(wire: DeviceWire) -> Device:
    access = wire.cgroup_permissions or "rwm"
    if access.strip("rwm"):
        raise InvalidArgument(f"invalid device mode: {clip(access)}")
    target = wire.path_in_container or wire.path_on_host
    _check_path("HostConfig.Devices: PathOnHost", wire.path_on_host)
    _check_path("HostConfig.Devices: PathInContainer", target)
    return Device(source=wire.path_on_host, target=target, access=access)


def _check_path(what: str, path: str) -> None:
    if not path.startswith("/"):
        raise InvalidArgument(f"{what} {clip(path)!r} is not absolute")
    if "\0" in path:
        raise InvalidArgument(f"{what} {clip(path)!r} has a NUL in it")


# --- what only plain containers have


def _plain_from(wire: NewContainerWire, modes: NamespaceModes) -> PlainContainer:
    host = wire.host_config
    return PlainContainer(
        restart=restart_from(host.restart_policy),
        auto_remove=host.auto_remove,
        modes=modes,
        networks=_networks_from(wire, modes.network),
        domain_name=wire.domainname,
        ports=tuple(
            _binding_from(text, binding)
            for text, bindings in host.port_bindings.items()
            for binding in (bindings or (BindingWire(),))
        ),
        publish_all=host.publish_all_ports,
        device_rules=tuple(map(_rule_from, host.device_cgroup_rules)),
        device_requests=tuple(map(_device_request_from, host.device_requests)),
        cgroup_parent=host.cgroup_parent,
        exposed=tuple(
            dict.fromkeys(port for text in wire.exposed_ports for port in ports_of(text))
        ),
        written=AsWritten(
            binds=host.binds,
            volumes=tuple(wire.volumes),
            tmpfs=host.tmpfs,
            volumes_from=host.volumes_from,
            volume_driver=host.volume_driver,
            mounts=tuple(
                mount_from(mount, f"HostConfig.Mounts[{i}]") for i, mount in enumerate(host.mounts)
            ),
            security_options=host.security_opt,
            extra_hosts=host.extra_hosts,
            attached=(wire.attach_stdin, wire.attach_stdout, wire.attach_stderr),
            id_file=host.container_id_file,
            stop_timeout=wire.stop_timeout,
            annotations=host.annotations,
        ),
    )


def _rule_from(text: str) -> DeviceRule:
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid device cgroup rule format: '{clip(text)}'")
    major, minor = (None if number == "*" else int(number) for number in match.group(2, 3))
    return DeviceRule(kind=match[1], major=major, minor=minor, access=match[4])


def _device_request_from(wire: DeviceRequestWire) -> DeviceRequest:
    return DeviceRequest(
        driver=wire.driver,
        count=wire.count,
        ids=wire.device_ids,
        capabilities=wire.capabilities,
        options=wire.options,
    )


def restart_from(wire: RestartPolicyWire) -> RestartRule:
    name, most = wire.name or "no", wire.maximum_retry_count
    if name not in get_args(RestartName):
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{clip(name)}'; use one of 'no', 'always',"
            " 'on-failure', or 'unless-stopped'"
        )
    if most and name != "on-failure":
        raise InvalidArgument(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        )
    if most < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    return RestartRule(cast(RestartName, name), most)


def _modes_from(host: HostConfigWire, find: Find) -> NamespaceModes:
    network = host.network_mode
    return NamespaceModes(
        network=_joined(network, find) if network.startswith(JOINED) else network or "default",
        pid=_mode("PID", host.pid_mode, ("", "host"), find),
        ipc=_mode("IPC", host.ipc_mode, _IPC_MODES, find),
        uts=_mode("UTS", host.uts_mode, ("", "host")),
        user=_mode("user namespace", host.userns_mode, ("", "host")),
        cgroup=_mode("cgroup namespace", host.cgroupns_mode, ("", "private", "host")),
    )


def _mode(kind: str, value: str, allowed: Iterable[str], find: Find | None = None) -> str:
    """`find`: None if containers cannot join one another's. Raises `InvalidArgument` with Docker's
    texts."""
    if value in allowed:
        return value
    if find is not None and value.startswith(JOINED) and value != JOINED:
        return f"{JOINED}{find(value.removeprefix(JOINED))}"
    raise InvalidArgument(f"invalid {kind} mode: {clip(value)}")


def _joined(value: str, find: Find) -> str:
    name = value.removeprefix(JOINED)
    if not name:
        raise InvalidArgument("invalid network mode: invalid container format container:<name|id>")
    return f"{JOINED}{find(name)}"


# --- networks and ports


def _networks_from(wire: NewContainerWire, mode: str) -> tuple[EndpointSettings, ...]:
    """The network of `NetworkMode` first, then the others. The default network is only for a
    container that names no other, as in Docker."""
    given = {_network(name): each for name, each in wire.networking_config.endpoints_config.items()}
    first = _network(mode)
    is_alone = has_no_networks(mode)
    if is_alone:
        others = [name for name in given if name != first]
        if others:
            raise InvalidArgument(
                "conflicting options: cannot attach both user-defined and non-user-defined"
                f" network-modes: {first}, {others[0]}"
            )
        _check_alone(wire, first)
        return ()
    others = [name for name in given if name != first]
    order = others if others and first not in given else [first, *others]
    mac = {first: mac_from(wire.mac_address)}
    return tuple(endpoint_from(name, given.get(name), mac.get(name, "")) for name in order)


def _network(name: str) -> str:
    return _DEFAULT_NETWORK if name in ("", "default") else name


def _check_alone(wire: NewContainerWire, mode: str) -> None:
    """Without a network of its own, a container has no use for what belongs to one."""
    if mode.startswith(JOINED):
        host, conflict = wire.host_config, "conflicting options: {} and the network mode"
        for is_given, what in (
            (bool(wire.hostname), "hostname"),
            (bool(wire.domainname), "domainname"),
            (bool(wire.mac_address), "mac-address"),
            (bool(host.dns), "dns"),
            (bool(host.extra_hosts), "custom host-to-IP mapping"),
            (bool(host.port_bindings) or host.publish_all_ports, "port publishing"),
            (bool(wire.exposed_ports), "port exposing"),
        ):
            if is_given:
                raise InvalidArgument(conflict.format(what))
    elif wire.mac_address:
        raise InvalidArgument("conflicting options: mac-address and the network mode")


def endpoint_from(
    network: str, wire: EndpointSettingsWire | None, mac: str = ""
) -> EndpointSettings:
    """Raises `InvalidArgument` with Docker's texts for what the default network does not have."""
    if wire is None:
        return EndpointSettings(network=network, mac=mac)
    ipam = wire.ipam_config
    where = f"NetworkingConfig.EndpointsConfig.{clip(network)}.IPAMConfig"
    six = _ipv6_address(network, ipam.ipv6_address if ipam is not None else "")
    address = None
    if ipam is not None and ipam.ipv4_address:
        address = parse_address(ipam.ipv4_address, IPv4Address, f"{where}.IPv4Address")
    if network == _DEFAULT_NETWORK and (address is not None or six is not None):
        raise InvalidArgument(
            "invalid config for network bridge: user specified IP address is supported on user"
            " defined networks only"
        )
    if network == _DEFAULT_NETWORK and wire.aliases:
        raise InvalidArgument(
            "invalid config for network bridge: network-scoped alias is supported only for"
            " containers in user defined networks"
        )
    return EndpointSettings(
        network=network,
        address=address,
        ipv6_address=six,
        mac=mac_from(wire.mac_address) or mac,
        aliases=wire.aliases,
        options=options_from(wire.driver_opts, f"NetworkingConfig.EndpointsConfig.{clip(network)}"),
    )


def _ipv6_address(network: str, text: str) -> IPv6Address | None:
    try:
        return ipv6_address_from(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"invalid config for network {network}: {error}") from None


def port_of(text: str) -> tuple[Port, Protocol]:
    """`80/tcp`"""
    number, _, protocol = text.partition("/")
    port = decimal(number, MAX_PORT)
    if not port or protocol.lower() not in ("", *get_args(Protocol)):
        raise InvalidArgument(f"invalid port specification: {clip(text)!r}")
    return port, cast(Protocol, protocol.lower() or "tcp")


def ports_of(text: str) -> list[tuple[Port, Protocol]]:
    """`80/tcp`, `91-93/udp`: Compose passes on a range as it is written."""
    numbers, slash, protocol = text.partition("/")
    first, dash, last = numbers.partition("-")
    if not dash:
        return [port_of(text)]
    (begin, kind), (end, _) = port_of(f"{first}{slash}{protocol}"), port_of(last)
    if begin > end:
        raise InvalidArgument(f"invalid port specification: {clip(text)!r}")
    return [(port, kind) for port in range(begin, end + 1)]


def _binding_from(text: str, wire: BindingWire) -> PortBinding:
    port, protocol = port_of(text)
    address = wire.host_ip
    if ":" in address:
        address = str(_ipv6_binding(text, address))
    elif address:
        parse_address(address, IPv4Address, f"HostConfig.PortBindings: HostIp of {clip(text)}")
    ends = wire.host_port.split("-") if wire.host_port else []
    numbers = [decimal(end, MAX_PORT) for end in ends]
    if (
        len(numbers) > 2
        or None in numbers
        or (len(numbers) > 1 and 0 in numbers)
        or sorted(map(int, filter(None, numbers))) != [n for n in numbers if n]
    ):
        raise InvalidArgument(f"invalid port specification: {clip(wire.host_port)!r}")
    ports = "" if numbers == [0] else wire.host_port
    return PortBinding(port, protocol, address, ports)


def _ipv6_binding(port: str, text: str) -> IPv6Address:
    field = f"HostConfig.PortBindings: HostIp of {clip(port)}"
    found = parse_address(text, IPv6Address, field)
    if found.is_loopback or found.is_link_local or found.ipv4_mapped is not None:
        raise Unsupported(
            f"HostConfig.PortBindings: the address {clip(text)} of port {clip(port)} is not"
            " supported by Weft: of IPv6, only global and unique local addresses are published"
        )
    return found


# --- limits


def limits_from(wire: HostConfigWire | UpdateContainerWire) -> Resources:
    """A limit of processes below 0 means none."""
    if wire.memory < 0:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")
    return Resources(
        nano_cpus=wire.nano_cpus, memory=wire.memory, pids=max(wire.pids_limit or 0, 0)
    )


def updated_from(wire: LimitsWire) -> FurtherLimits:
    """What an update says as well."""
    return FurtherLimits(
        cpu_shares=wire.cpu_shares,
        cpu_period=wire.cpu_period,
        cpu_quota=wire.cpu_quota,
        cpuset_cpus=wire.cpuset_cpus,
        cpuset_mems=wire.cpuset_mems,
        memory_reservation=wire.memory_reservation,
        memory_swap=wire.memory_swap,
        devices=DeviceLimits(weight=wire.blkio_weight),
    )


def further_from(wire: HostConfigWire) -> FurtherLimits:
    swappiness = wire.memory_swappiness
    return msgspec.structs.replace(
        updated_from(wire),
        swappiness=None if swappiness == -1 else swappiness,
        oom_kill_disable=wire.oom_kill_disable,
        devices=DeviceLimits(
            weight=wire.blkio_weight,
            weights=_throttles("BlkioWeightDevice", wire.blkio_weight_device),
            read_bytes=_throttles("BlkioDeviceReadBps", wire.blkio_device_read_bps),
            write_bytes=_throttles("BlkioDeviceWriteBps", wire.blkio_device_write_bps),
            read_operations=_throttles("BlkioDeviceReadIOps", wire.blkio_device_read_iops),
            write_operations=_throttles("BlkioDeviceWriteIOps", wire.blkio_device_write_iops),
        ),
    )


def _throttles(field: str, wires: Iterable[RateWire | WeightWire]) -> tuple[Throttle, ...]:
    wires = tuple(wires)
    for wire in wires:
        _check_path(f"{field}: Path", wire.path)
    return tuple(
        Throttle(wire.path, wire.rate if isinstance(wire, RateWire) else wire.weight)
        for wire in wires
    )
