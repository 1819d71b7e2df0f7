"""The composition root: the only file that chooses real adapters. One `WeftNode` is one host's
daemon.

    run(options) ─▶ checks ─▶ runtime, images, kernel ─▶ swarm of the last daemon, if any
                 ─▶ API socket ─▶ until a signal
"""

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import msgspec
import uvloop

from weft.api.metrics import MetricsListener
from weft.api.server import ApiServer
from weft.api.turning_away import turn_away
from weft.control.allocator.ports import OwnPorts
from weft.daemon import esp_engine
from weft.daemon import host_info as hostinfo
from weft.daemon.downgrade import newer_files
from weft.daemon.environment import HostAdapters, NodeEnvironment
from weft.daemon.examination import HostExaminer
from weft.daemon.host_node import HostNode
from weft.daemon.options import SWARM, DaemonOptions
from weft.engine.adapters import EngineAdapters, NameAdapters, NetworkAdapters, Origin
from weft.engine.engine import Engine
from weft.errors import (
    InvalidArgument,
    OperationFailed,
    WeftError,
    cause_of,
)
from weft.linux import conntrack, host, netns, ping, sysctl
from weft.linux.connection_table import read_table, watch_table
from weft.linux.counters import accepted, tcp_counts
from weft.linux.host_ports import check_free
from weft.linux.kernel import RealKernel
from weft.linux.packet_ring import open_ring
from weft.linux.probe import probe, round_trips
from weft.linux.raw_sender import open_sender
from weft.linux.rivals import rivals
from weft.model.addresses import MacAddress, PortKey
from weft.model.container import Container, ContainerState
from weft.model.host import HostInfo
from weft.model.ids import NodeId
from weft.model.meta import SECOND
from weft.model.sandbox import GATEWAY_BRIDGE, GATEWAY_INTERFACE, NodeFacts
from weft.network.flows import Stale
from weft.network.kernel_state import HOST
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.image_exchange import StoreExchange
from weft.runtime.images import ImageStore
from weft.runtime.inside import ConmonInside
from weft.runtime.kernel_support import missing_limits
from weft.runtime.volumes import LocalVolumes
from weft.session.client import Connector
from weft.session.deadlines import Deadlines
from weft.system import core_dumps
from weft.system import journal as logs
from weft.system.files import make_directory, make_missing
from weft.system.garbage import ShortPasses
from weft.system.service_manager import READY, STOPPING, ServiceManager, status
from weft.system.tls_files import TlsFiles
from weft.system.waiting import first

log = logging.getLogger(__name__)

_UMASK = 0o022
"""Set whatever umask the service manager has set. Directories that the OCI runtime makes in a
container, for its mounts and its working directory, get their modes by it, and a container's users
must be able to enter them. Files that are only for root have explicit modes."""


UNFIT = 78
"""Exit status if this host or its configuration must be changed before a daemon can run here:
EX_CONFIG of sysexits.h. The service manager need not try again."""

_BESIDE_GRACE = 45.0
"""Seconds that ending all containers with their host takes at most, besides their grace period: the
swarm is told, connections find other tasks, what is mounted is unmounted."""


class WeftNode:
    """A host's real adapters, and the node on them. `open` starts it."""

    def __init__(self, options: DaemonOptions, info: HostInfo) -> None:
        self._options = options
        self._kernel = RealKernel(options.netns_dir)
        self._image_store = ImageStore(
            options.data_root / "images", time.time_ns, registries=options.registries
        )
        self._volume_store = LocalVolumes(options.data_root)
        self.containers = ConmonRuntime(
            options.data_root, options.run_dir, self._image_store, self._volume_store, time.time_ns
        )
        self._esp, self._no_esp = esp_engine.choose(options)
        confiner = self.containers.confiner
        self._engine = Engine(info.engine_id, self._adapters())
        environment = NodeEnvironment(
            data=options.data_root / SWARM,
            run=options.run_dir,
            engine=self._engine,
            facts=self._facts,
            host=HostAdapters(
                connector=partial(Connector, deadlines=Deadlines(options.pace.election)),
                description=lambda: hostinfo.describe(info),
                routes=host.routes,
                open_echo=ping.EchoSocket,
                examine=HostExaminer(options.data_root, _tls_files(options)),
            ),
            own_ports=_own_ports(options),
            pace=options.pace,
            external_etcd=options.store,
        )
        info = msgspec.structs.replace(
            info,
            esp_engine=self._esp.name if self._esp else "",
            apparmor=confiner.apparmor.in_use,
            seccomp=confiner.filters,
            swap_limit=self.containers.limits_swap,
            missing_limits=missing_limits(),
            registries=options.registries,
            warnings=(*info.warnings, *confiner.warnings),
        )
        inside = ConmonInside(self.containers, self._image_store, time.time_ns)
        exchange = StoreExchange(self._image_store)
        self.node = HostNode(info, environment, host.choose_addresses, inside, exchange)

    async def open(self) -> None:
        self._volume_store.load()
        await self.containers.load()
        await esp_engine.end_others(self._options, self._esp)
        await self.node.resume()

    async def host_stops(self, extend: Callable[[float], None]) -> None:
        """The host is being shut down: tells the swarm, and then ends all containers. `extend` is
        told how many seconds that takes at most."""
        longest = max((each.stop_grace_period for each in self._running()), default=0)
        log.info("host.stopping containers=%d grace=%gs", len(self._running()), longest / SECOND)
        extend(longest / SECOND + _BESIDE_GRACE)
        await self.node.host_stops()
        await self.containers.end_with_host()

    def going_on(self) -> str:
        """What outlives the daemon, for who stops it and not the host."""
        count = len(self._running())
        return f"{count} container{'s'[: count != 1]} run on without a daemon"

    def _running(self) -> list[Container]:
        found = self.containers.containers()
        return [each for each in found if each.state is ContainerState.RUNNING]

    async def close(self) -> None:
        """Closes the daemon; containers, networks and traffic go on."""
        await self.node.close()
        await self.containers.close()
        await self._volume_store.close()
        await self._kernel.close()
        if self._esp is not None:
            await self._esp.close()

    def _facts(self, node: NodeId, data_path: IPv4Address) -> NodeFacts:
        """Facts of the node. The MTU is read at each start, since the operator may have changed
        it."""
        return NodeFacts(
            node=node,
            data_path_address=data_path,
            underlay_mtu=host.interface_with(data_path).mtu,
            gateway=_gateway(self._engine.local.subnets()),
            esp_engine=self._esp.name if self._esp else None,
        )

    def _adapters(self) -> EngineAdapters:
        directory = self._options.netns_dir
        network = NetworkAdapters(
            kernel=self._kernel,
            names=NameAdapters(
                open_resolver=_open_resolver,
                open_socket=netns.open_socket,
                host_resolver=hostinfo.resolver,
            ),
            flush_flows=lambda space, flows: _flush_flows(
                directory / space if space != HOST else None, flows
            ),
            check_port=check_free,
            accepted=accepted,
            open_tap=open_ring,
            open_sender=open_sender,
            read_connections=read_table,
            watch_connections=watch_table,
            uplink=lambda address: host.interface_with(address).name,
            probe=lambda space, asked, seconds: _probe(
                directory / space if space != HOST else None, asked, seconds
            ),
            round_trips=round_trips,
            count_tcp=tcp_counts,
            rivals=_rivals,
            esp=self._esp,
            no_esp=self._no_esp,
            namespaces=directory,
            routes=host.routes,
            ipv6_routes=host.ipv6_routes,
            foreign_links=lambda: [interface.name for interface in host.all_interfaces()],
            records=self._options.data_root / "networks",
        )
        origin = Origin(clock=time.time_ns, entropy=secrets.token_bytes)
        return EngineAdapters(
            runtime=self.containers,
            images=self._image_store,
            volumes=self._volume_store,
            network=network,
            origin=origin,
            health_records=self._options.data_root / "health",
        )


def run(options: DaemonOptions, manager: ServiceManager) -> int:
    """Runs the daemon until SIGTERM or SIGINT. Returns the exit status: `UNFIT`, or 1 if it could
    not start for another reason or a part failed."""
    os.umask(_UMASK)
    core_dumps.forbid()
    logs.start(options.log_level, options.log_format)
    try:
        newer = newer_files(options.data_root / SWARM)
        problems = [*hostinfo.missing_programs(), *host.check_features(), *newer]
        if problems:
            reason = "cannot start: " + "; ".join(problems)
            log.critical("daemon.unfit cause=%s", reason)
            turn_away(manager.listeners(), reason)
            return UNFIT
        ShortPasses().begin()
        return uvloop.run(_run(options, manager))
    except WeftError as error:
        log.error("daemon.failed cause=%s", error)
        return 1


async def _run(options: DaemonOptions, manager: ServiceManager) -> int:
    _make_directories(options)
    info = hostinfo.read(options.data_root, time.time_ns(), options.labels, generic=options.generic)
    node = WeftNode(options, info)
    api = ApiServer(node.node)
    metrics = MetricsListener(node.node, api.tally)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await node.open()
        await _serve(api, options, manager.listeners())
        if (at := options.metrics) is not None:
            await metrics.start(at.host.address, at.host.port, at.files)
        log.info("daemon.ready version=%s data_root=%s", node.node.info.version, options.data_root)
        manager.notify(READY)
        await first(stop.wait(), node.node.failed())
        manager.notify(STOPPING)
        if await asyncio.to_thread(hostinfo.is_stopping):
            await node.host_stops(manager.extend)
        else:
            log.info("daemon.stopping said=%r", node.going_on())
            manager.notify(status(node.going_on()))
        node.containers.look_away()
    finally:
        await metrics.close()
        await api.close()
        await node.close()
    return 0


async def _serve(
    api: ApiServer, options: DaemonOptions, given: Sequence[socket.socket] = ()
) -> None:
    """`given`: listening sockets of the service manager, at paths that need not be among the
    options'."""
    for listening in given:
        await api.adopt(listening)
    held = {os.path.realpath(listening.getsockname()) for listening in given}
    for path in (options.socket, *options.sockets):
        if os.path.realpath(path) not in held:
            await api.start(path)
    for tcp in options.tcp:
        if options.tls is None:
            raise InvalidArgument(
                f"cannot serve the API on tcp://{tcp.address}:{tcp.port}: it needs mutual TLS"
            )
        await api.start_tls(tcp.address, tcp.port, options.tls)


def _make_directories(options: DaemonOptions) -> None:
    """Creates the directories. Only root has access below the data root, where images and
    containers are."""
    for path, make, mode in (
        (options.data_root, make_directory, 0o710),
        (options.run_dir, make_directory, 0o711),
        (options.netns_dir, make_missing, 0o755),  # another engine may use it, too
    ):
        try:
            make(path, mode)
        except OSError as error:
            raise OperationFailed(f"cannot make directory {path}: {cause_of(error)}") from error


async def _rivals(address: IPv4Address, seconds: float) -> Collection[MacAddress]:
    return await rivals(host.interface_with(address).name, address, seconds)


def _tls_files(options: DaemonOptions) -> list[TlsFiles]:
    metrics = options.metrics.files if options.metrics is not None else None
    return [files for files in (options.tls, metrics) if files is not None]


def _own_ports(options: DaemonOptions) -> OwnPorts:
    """Ports that this daemon needs besides the swarm's ports, with their purpose. An external etcd
    may be on any host, this one included."""
    found: dict[PortKey, str] = {}
    for endpoint in options.store.endpoints if options.store else ():
        found["tcp", int(endpoint.rpartition(":")[2])] = f"the swarm's state is at {options.store}"
    for tcp in options.tcp:
        found["tcp", tcp.port] = f"the API listens on tcp://{tcp.address}:{tcp.port}"
    if options.metrics is not None:
        tcp = options.metrics.host
        found["tcp", tcp.port] = f"metrics are at {tcp.address}:{tcp.port}"
    return found


def _gateway(own: Sequence[IPv4Network]) -> IPv4Interface:
    """The address for docker_gwbridge: the one that it has, or in the first local pool that no
    route of the host overlaps. `own`: subnets of the node's own networks, which have no routes yet
    after a reboot. A pool that became free is no reason to move: running tasks have addresses in
    the present one."""
    taken = [*host.routes(), *own]
    pools = (GATEWAY_INTERFACE.network.network_address.packed[1], *range(19, 32))
    candidates = (IPv4Interface(f"172.{second}.0.1/16") for second in pools)
    for candidate in (*host.addresses_of(GATEWAY_BRIDGE), *candidates):
        if not any(candidate.network.overlaps(route) for route in taken):
            return candidate
    raise OperationFailed(
        "cannot create docker_gwbridge: every subnet from 172.18.0.0/16 to 172.31.0.0/16 is in use"
    )


async def _open_resolver(
    path: Path, address: IPv4Address, port: int
) -> tuple[socket.socket, socket.socket]:
    return await netns.open_udp_tcp(path, address, port)


async def _probe(
    namespace: Path | None, asked: Collection[tuple[IPv4Address, int]], seconds: float
) -> Collection[tuple[IPv4Address, int]]:
    """`namespace`: None for the host's own."""
    if namespace is not None and not netns.is_live(namespace):
        return ()
    return await probe(asked, seconds, namespace)


async def _flush_flows(namespace: Path | None, flows: frozenset[Stale]) -> None:
    """`namespace`: None for the host's own."""

    def flush() -> None:
        # Looking costs the kernel 9 ms however few flows there are.
        if sysctl.read("net.netfilter.nf_conntrack_count") != "0":
            conntrack.delete_stuck(*flows)

    if namespace is None:
        await netns.on_thread(flush)
    elif netns.is_live(namespace):
        await netns.on_thread(netns.inside_file(namespace, flush))
