"""Turns a workload into the container that runs it: names, /etc/hosts and /etc/resolv.conf.
Pure."""

from ipaddress import IPv4Address
from pathlib import Path

import msgspec

from weft.engine.adapters import NAMESPACES, HostResolver
from weft.model.assignment import Overlays
from weft.model.container import ContainerConfig
from weft.model.ids import ContainerId
from weft.model.sandbox import RESOLVER_ADDRESS, Sandbox
from weft.model.service import ContainerSpec
from weft.model.workload import Workload

SHORT_ID = 12
"""Digits of a container's id that make its short id, and its hostname if the user gave none."""

HOST_GATEWAY = "host-gateway"
"""Stands for the host's address as its containers see it: docker_gwbridge's own address or, for a
container on the host's network, the loopback address."""
LOOPBACK = IPv4Address("127.0.0.1")

HOSTS_HEAD = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


class Host(msgspec.Struct, frozen=True):
    """The values that this host's containers inherit from the host."""

    hostname: str
    resolver: HostResolver = HostResolver()
    namespaces: Path = NAMESPACES


def container_config(
    workload: Workload,
    container: ContainerId,
    sandbox: Sandbox | None,
    overlays: Overlays,
    host: Host,
) -> ContainerConfig:
    """The container of a workload. Without a sandbox the container runs on the host's network, with
    the host's name and name servers."""
    spec = workload.spec
    hostname = spec.hostname or (host.hostname if workload.host_network else container[:SHORT_ID])
    return ContainerConfig(
        id=container,
        name=workload.name,
        spec=spec,
        limits=workload.limits,
        hostname=hostname,
        labels=workload.labels,
        namespace=None if sandbox is None else str(host.namespaces / sandbox.key),
        sandbox_id="" if sandbox is None else sandbox.id,
        hosts=hosts_file(workload, hostname, overlays, sandbox),
        resolv_conf=resolv_conf(spec, host.resolver, own=sandbox is not None),
        log_driver=workload.log_driver,
        log_options=workload.log_options,
        ports=tuple(
            port
            for port in workload.ports
            if port.mode == "host" and port.published and sandbox is not None
        ),
    )


def hosts_file(
    workload: Workload, hostname: str, overlays: Overlays, sandbox: Sandbox | None
) -> str:
    """The content of /etc/hosts: the well-known names, the user's entries, and the container's own
    addresses, since programs look themselves up when they start: one on each network, but ingress
    only if it is the only one; without networks, the address on the gateway bridge."""
    bridge = LOOPBACK if sandbox is None else sandbox.gateway.network.network_address + 1
    lines = []
    for line in filter(str.strip, workload.spec.hosts):
        address, *names = line.split()
        lines.append(f"{bridge if address == HOST_GATEWAY else address}\t{' '.join(names)}\n")
    ingress = {id for id, view in overlays.networks.items() if view.definition.ingress}
    own = [a for a in workload.attachments if a.network not in ingress] or workload.attachments
    addresses = [attachment.address.ip for attachment in own] or (
        [] if sandbox is None else [sandbox.gateway.ip]
    )
    lines += [f"{address}\t{own_names(hostname)}\n" for address in addresses]
    return HOSTS_HEAD + "".join(lines)


def own_names(hostname: str, domain: str = "") -> str:
    """What a container is called in its hosts file: the full name first, which is then the host's,
    and the first part of it (moby libnetwork/sandbox_dns_unix.go). A host name with dots in it
    stands between them if there is a domain, since programs look it up."""
    full = f"{hostname}.{domain}" if domain else hostname
    return " ".join(dict.fromkeys((full, hostname, full.partition(".")[0])))


def resolv_conf(spec: ContainerSpec, host: HostResolver, own: bool) -> str:
    """The content of /etc/resolv.conf. With `own`, this node's name server in the sandbox answers;
    otherwise the servers that the user or the host named."""
    servers = (str(RESOLVER_ADDRESS),) if own else spec.dns_servers or host.servers
    search = spec.dns_search or host.search
    options = spec.dns_options or host.options
    if own and not any(option.startswith("ndots:") for option in spec.dns_options):
        options = (*(o for o in options if not o.startswith("ndots:")), "ndots:0")
    lines = [f"nameserver {server}" for server in servers]
    named = [domain for domain in search if domain != "."]
    lines += [f"search {' '.join(named)}"] if named else []
    lines += [f"options {' '.join(options)}"] if options else []
    return "".join(f"{line}\n" for line in lines)
