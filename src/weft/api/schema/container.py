"""Containers and commands in them: requests, and the JSON of `list` and `inspect`.

The runtime knows a container's own values, the agent knows its networks; `ContainerContext` brings
both together. Fields of Docker that Weft has no counterpart for are printed with the value that
they have in a container of a service.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath

import msgspec

from weft.api.schema.common import Json, Short, Wire, human_duration, omit_empty, rfc3339
from weft.api.schema.container_host import bindings, host_config_json, network_mode
from weft.api.schema.healthcheck import health_check_json, health_json, health_text
from weft.api.schema.mount import mount_point_json
from weft.model.addresses import mac_for
from weft.model.bridge_network import DEFAULT_NETWORK
from weft.model.container import Container, ContainerState, ImageConfig
from weft.model.endpoint_settings import EndpointSettings
from weft.model.health import Health
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.meta import SECOND, Nanoseconds
from weft.model.plain_container import PlainContainer
from weft.runtime.base import Exec


class ContainerContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the node knows about a container beside the container's own record."""

    image: ImageConfig = ImageConfig()
    """Configuration of the image that the container was made from; empty if the image is gone."""
    networks: Mapping[str, tuple[LocalNetwork, LocalEndpoint]] = msgspec.field(default_factory=dict)
    gateway: LocalEndpoint | None = None
    execs: tuple[str, ...] = ()
    health: Health | None = None
    restarting: bool = False
    """Whether the container has ended and waits to be started again."""
    network_ids: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Ids of this node's networks, by name."""


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

ANY = "0.0.0.0"
NO_COMMAND = ("",)
"""A command that removes the image's entrypoint."""


def state_name(container: Container, restarting: bool) -> str:
    if restarting:
        return "restarting"
    return "paused" if container.paused else str(container.state)


def status_text(
    container: Container,
    now: Nanoseconds,
    health: Health | None = None,
    restarting: bool = False,
) -> str:
    """`Up 5 minutes (healthy)`, `Exited (0) 3 seconds ago`, as `docker ps` prints it."""
    if restarting:
        since = human_duration(now - container.finished_at)
        return f"Restarting ({container.exit_code}) {since} ago"
    match container.state:
        case ContainerState.RUNNING:
            suffix = "" if health is None else health_text(health)
            suffix = " (Paused)" if container.paused else suffix
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
        "State": state_name(container, environment.restarting),
        "Status": status_text(container, now, environment.health, environment.restarting),
        "HostConfig": {"NetworkMode": network_mode(container)},
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
        "State": _state_json(container, environment),
        "Image": container.image,
        "ResolvConfPath": str(directory / "resolv.conf"),
        "HostnamePath": str(directory / "hostname"),
        "HostsPath": str(directory / "hosts"),
        "LogPath": container.log_path,
        "Name": f"/{config.name}",
        "RestartCount": config.plain.restart_count if config.plain is not None else 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": container.confinement.apparmor_profile,
        "ExecIDs": list(environment.execs) or None,
        "HostConfig": host_config_json(container),
        "GraphDriver": {"Data": None, "Name": "overlay2"},
        "Mounts": [mount_point_json(point) for point in config.mount_points],
        "Config": _config_json(container, environment.image),
        "NetworkSettings": _network_settings_json(container, environment),
    } | ({"SizeRw": sizes[0], "SizeRootFs": sizes[1]} if sizes else {})


def _state_json(container: Container, environment: ContainerContext) -> Json:
    """A container that waits to be started again counts as running, as in Docker."""
    state, health, restarting = container.state, environment.health, environment.restarting
    return {
        "Status": state_name(container, restarting),
        "Running": state == ContainerState.RUNNING or restarting,
        "Paused": container.paused,
        "Restarting": restarting,
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
    plain = config.plain or PlainContainer()
    written = plain.written
    command = list(spec.args) if spec.command or spec.args else list(image.cmd)
    entrypoint = [] if spec.command == NO_COMMAND else list(spec.command or image.entrypoint)
    stdin, stdout, stderr = written.attached
    volumes = (*image.volumes, *written.volumes)
    return {
        "Hostname": config.hostname,
        "Domainname": plain.domain_name,
        "User": spec.user or image.user,
        "AttachStdin": stdin,
        "AttachStdout": stdout,
        "AttachStderr": stderr,
        **omit_empty({"ExposedPorts": {port: {} for port in _exposed(container, image)}}),
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": list(container.env) or None,
        "Cmd": command or None,
        "Image": spec.image,
        "Volumes": {volume: {} for volume in volumes} or None,
        "WorkingDir": spec.dir or image.working_dir,
        "Entrypoint": entrypoint or None,
        "OnBuild": None,
        "Labels": config.labels,
        **omit_empty({"StopSignal": spec.stop_signal or image.stop_signal}),
        **({} if written.stop_timeout is None else {"StopTimeout": written.stop_timeout}),
        **(
            {"Healthcheck": health_check_json(container.healthcheck)}
            if container.healthcheck is not None
            else {}
        ),
        **({"Shell": list(image.shell)} if image.shell else {}),
    }


def _exposed(container: Container, image: ImageConfig) -> list[str]:
    """Ports that the image exposes and ports that are published, each as `80/tcp`."""
    plain = container.config.plain or PlainContainer()
    published = [(port.target, port.protocol) for port in container.config.ports]
    asked = [(port.target, port.protocol) for port in plain.ports]
    every = (*image.exposed_ports, *plain.exposed, *asked, *published)
    return list(dict.fromkeys(f"{port}/{protocol}" for port, protocol in every))


def port_list(container: Container, image: ImageConfig) -> list[Json]:
    published = [
        {
            "IP": str(port.host_address or ANY),
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


def _network_settings_json(container: Container, environment: ContainerContext) -> Json:
    sandbox = container.config.sandbox_id if container.state == ContainerState.RUNNING else ""
    exposed: Json = dict.fromkeys(_exposed(container, environment.image))
    ports = exposed | bindings(container, ANY) if sandbox else {}
    networks = _networks_json(container, environment)
    on_default = networks.get(DEFAULT_NETWORK) or {}
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
        "EndpointID": on_default.get("EndpointID", ""),
        "Gateway": on_default.get("Gateway", ""),
        "GlobalIPv6Address": on_default.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": on_default.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": on_default.get("IPAddress", ""),
        "IPPrefixLen": on_default.get("IPPrefixLen", 0),
        "IPv6Gateway": on_default.get("IPv6Gateway", ""),
        "MacAddress": on_default.get("MacAddress", ""),
        "Networks": networks,
    }


def _networks_json(container: Container, environment: ContainerContext) -> Json:
    """Also the networks that a plain container will have when it is started."""
    plain = container.config.plain or PlainContainer()
    wanted = {settings.network: settings for settings in plain.networks}
    ids = environment.network_ids
    if plain.modes.network in ("host", "none"):
        wanted[plain.modes.network] = EndpointSettings(network=plain.modes.network)
    found = {
        name: _attachment_json(container, *place, _settings_of(wanted, place[0]))
        for name, place in environment.networks.items()
    }
    have = {id for name, id in ids.items() if name in found}
    return found | {
        name: _wanted_json(settings, ids.get(name, ""))
        for name, settings in wanted.items()
        if name not in found and not any(id.startswith(name) for id in have)
    }


def _settings_of(
    wanted: Mapping[str, EndpointSettings], network: LocalNetwork
) -> EndpointSettings | None:
    """The user's settings for the network, whose name or beginning of its id is the key."""
    for name, settings in wanted.items():
        if name == network.name or network.id.startswith(name):
            return settings
    return None


def _wanted_json(settings: EndpointSettings, network: str) -> Json:
    return {
        "IPAMConfig": _asked_json(settings.address, settings.ipv6_address),
        "Links": None,
        "Aliases": list(settings.aliases) or None,
        "MacAddress": settings.mac,
        "NetworkID": network,
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DriverOpts": dict(settings.options) or None,
        "GwPriority": 0,
        "DNSNames": None,
    }


def _attachment_json(
    container: Container,
    network: LocalNetwork,
    endpoint: LocalEndpoint,
    settings: EndpointSettings | None,
) -> Json:
    """`settings`: None for a task, whose address the swarm has chosen."""
    address = endpoint.address.ip
    asked = address if settings is None else settings.address
    asked_six = settings.ipv6_address if settings is not None else None
    six = endpoint.ipv6_address
    names = dict.fromkeys((container.config.name, container.id[:12], *endpoint.aliases))
    return {
        "IPAMConfig": _asked_json(asked, asked_six),
        "Links": None,
        "Aliases": (list(settings.aliases) or None) if settings is not None else None,
        "MacAddress": endpoint.mac or mac_for(address),
        "NetworkID": network.id,
        "EndpointID": endpoint.endpoint_id,
        "Gateway": _gateway_of(network),
        "IPAddress": str(address),
        "IPPrefixLen": endpoint.address.network.prefixlen,
        "IPv6Gateway": _ipv6_gateway_of(network) if six is not None else "",
        "GlobalIPv6Address": str(six.ip) if six is not None else "",
        "GlobalIPv6PrefixLen": six.network.prefixlen if six is not None else 0,
        "DriverOpts": (dict(settings.options) or None) if settings is not None else None,
        "GwPriority": 0,
        "DNSNames": list(names) if network.name != DEFAULT_NETWORK else None,
    }


def _asked_json(address: IPv4Address | None, six: IPv6Address | None) -> Json | None:
    found = omit_empty({"IPv4Address": str(address or ""), "IPv6Address": str(six or "")})
    return found or None


def _ipv6_gateway_of(network: LocalNetwork) -> str:
    pool = network.ipv6_pool
    return "" if network.internal or pool is None else str(pool.gateway or "")


def _gateway_of(network: LocalNetwork) -> str:
    """An overlay has no gateway: its containers have an endpoint on docker_gwbridge for that."""
    is_way_out = network.driver == "bridge" and not network.internal and network.pools
    return network.pools[0][1] if is_way_out else ""


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
