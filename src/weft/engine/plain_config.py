"""Turns a user's request into the configuration of a plain container: the part that is known when
it is made, and the part that it gets with its network each time it is started. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_address

import msgspec

from weft.engine.container_config import (
    HOST_GATEWAY,
    HOSTS_HEAD,
    LOOPBACK,
    SHORT_ID,
    Host,
    own_names,
    resolv_conf,
)
from weft.engine.local_allocation import WantedPort
from weft.errors import Conflict, InvalidArgument, NotFound
from weft.model.addresses import Address, Port, Protocol
from weft.model.container import Container, ContainerConfig, ContainerState, ImageConfig
from weft.model.container_request import ContainerRequest
from weft.model.ids import ContainerId
from weft.model.plain_container import JOINED, NamespaceModes, PlainContainer
from weft.model.service import PublishedPort

_KINDS = ("pid", "ipc", "uts", "cgroup")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a container is about to run."""

    host: Host
    containers: Mapping[ContainerId, Container]
    """All of this node."""
    sandbox: str = ""
    """Id of its sandbox; empty if it has none."""
    namespace: str = ""
    """Name of its sandbox's namespace."""
    addresses: Sequence[Address] = ()
    """Its own."""
    gateway: IPv4Address = LOOPBACK
    """This host, as the container sees it."""
    has_names: bool = False
    """Whether this node's name server answers in the sandbox."""


def plain_config(
    request: ContainerRequest, id: ContainerId, image: ImageConfig, hostname: str
) -> ContainerConfig:
    """`hostname`: the host's. The labels of the image are the container's, too."""
    modes, spec = request.plain.modes, request.spec
    is_hosts = "host" in (modes.network, modes.uts)
    return ContainerConfig(
        id=id,
        name=request.name,
        spec=spec,
        limits=request.limits,
        further=request.further,
        hostname=spec.hostname or (hostname if is_hosts else id[:SHORT_ID]),
        labels={**image.labels, **spec.labels},
        namespace=None if modes.network == "host" else "",
        log_driver=request.log_driver,
        log_options=request.log_options,
        stdin_once=request.stdin_once,
        shm_size=request.shm_size,
        has_shm=modes.ipc != "none",
        console_size=request.console_size,
        plain=request.plain,
    )


def started_config(config: ContainerConfig, place: Place) -> ContainerConfig:
    """The container as it is started. Raises `NotFound`, `InvalidArgument` or `Conflict` if a
    container whose namespaces it joins is missing, does not run or shares none."""
    plain = config.plain or PlainContainer()
    mode, host = plain.modes.network, place.host
    config = msgspec.structs.replace(
        config,
        shared=_shared(plain.modes, place.containers),
        shm_owner=_shm_owner(config.id, plain.modes.ipc, place.containers),
    )
    if mode.startswith(JOINED):
        other = _networked(mode, place.containers)
        return msgspec.structs.replace(
            config,
            namespace=f"/proc/{other.pid}/ns/net",
            hostname=other.config.hostname,
            plain=msgspec.structs.replace(plain, domain_name=_domain_name(other)),
            hosts=other.config.hosts,
            resolv_conf=other.config.resolv_conf,
        )
    namespace = str(host.namespaces / place.namespace) if place.sandbox else ""
    config = msgspec.structs.replace(
        config, namespace=None if mode == "host" else namespace, sandbox_id=place.sandbox
    )
    return named_config(config, place)


def named_config(config: ContainerConfig, place: Place) -> ContainerConfig:
    """The container with the names that belong to its place."""
    return msgspec.structs.replace(
        config,
        hosts=hosts_file(config, place),
        resolv_conf=resolv_conf(config.spec, place.host.resolver, own=place.has_names),
    )


def with_names_of(
    config: ContainerConfig, containers: Iterable[Container]
) -> Iterator[ContainerConfig]:
    """Those that run in the network namespace of a container, with its names: in Docker they have
    the same files."""
    for other in containers:
        plain = other.config.plain or PlainContainer()
        is_there = plain.modes.network == f"{JOINED}{config.id}"
        if is_there and other.state is ContainerState.RUNNING:
            yield msgspec.structs.replace(
                other.config, hosts=config.hosts, resolv_conf=config.resolv_conf
            )


def wanted_ports(
    plain: PlainContainer, exposed: Sequence[tuple[Port, Protocol]]
) -> tuple[PublishedPort, ...]:
    """The ports to publish: those that the user names, and if all are to be, those that the image
    and the user expose. A host's port of 0 stands for a free one."""
    found: list[PublishedPort] = [
        WantedPort(
            target=binding.target,
            published=binding.first,
            last=binding.last,
            protocol=binding.protocol,
            mode="host",
            host_address=ip_address(binding.address) if binding.address else None,
        )
        for binding in plain.ports
    ]
    named = {(port.target, port.protocol) for port in found}
    every = dict.fromkeys((*exposed, *plain.exposed)) if plain.publish_all else ()
    found += [
        PublishedPort(target=target, protocol=protocol, mode="host")
        for target, protocol in every
        if (target, protocol) not in named
    ]
    return tuple(found)


def hosts_file(config: ContainerConfig, place: Place) -> str:
    """The content of /etc/hosts: the well-known names, the user's entries, and the container's own
    names."""
    lines = []
    for line in filter(str.strip, config.spec.hosts):
        address, *names = line.split()
        shown = place.gateway if address == HOST_GATEWAY else address
        lines.append(f"{shown}\t{' '.join(names)}\n")
    plain = config.plain or PlainContainer()
    own = own_names(config.hostname, plain.domain_name)
    lines += [f"{address}\t{own}\n" for address in place.addresses]
    return HOSTS_HEAD + "".join(lines)


def _domain_name(container: Container) -> str:
    plain = container.config.plain
    return "" if plain is None else plain.domain_name


def _shared(modes: NamespaceModes, containers: Mapping[ContainerId, Container]) -> dict[str, str]:
    found = {}
    for kind in _KINDS:
        mode = getattr(modes, kind)
        if mode == "host":
            found[kind] = ""
        elif mode.startswith(JOINED):
            found[kind] = f"/proc/{_joined(mode, containers, kind).pid}/ns/{kind}"
    return found


def _shm_owner(own: str, mode: str, containers: Mapping[ContainerId, Container]) -> str:
    """Raises `InvalidArgument` for a container that shares its IPC namespace with nobody."""
    if mode == "shareable":
        return own
    if not mode.startswith(JOINED):
        return ""
    other = _joined(mode, containers, "ipc")
    if not other.config.shm_owner:
        raise InvalidArgument(
            f"failed to join IPC namespace: container {other.id}: non-shareable IPC (hint: use"
            " IpcMode:shareable for the donor container)"
        )
    return other.config.shm_owner


def _joined(mode: str, containers: Mapping[ContainerId, Container], kind: str) -> Container:
    """Docker's texts (moby daemon/container_operations_unix.go)."""
    id, failed = mode.removeprefix(JOINED), f"failed to join {kind.upper()} namespace"
    other = containers.get(ContainerId(id))
    if other is None:
        raise InvalidArgument(f"{failed}: No such container: {id}")
    if other.state is not ContainerState.RUNNING:
        raise Conflict(f"{failed}: container {id} is not running")
    return other


def _networked(mode: str, containers: Mapping[ContainerId, Container]) -> Container:
    """Docker's texts (moby daemon/container_operations.go)."""
    id = mode.removeprefix(JOINED)
    other = containers.get(ContainerId(id))
    if other is None:
        raise NotFound(f"No such container: {id}")
    if other.state is not ContainerState.RUNNING:
        raise Conflict(
            "cannot join network namespace of a non running container: container"
            f" {other.config.name} is {other.state.value}"
        )
    return other
