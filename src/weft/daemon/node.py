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
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import msgspec
import uvloop

from weft.api.backend import Swarm
from weft.api.server import ApiServer
from weft.control.allocator.ports import OwnPorts
from weft.daemon import host_info as hostinfo
from weft.daemon.environment import HostAdapters, NodeEnvironment
from weft.daemon.recovery import forget
from weft.daemon.swarm_node import JOIN_PATIENCE, STILL_JOINING, SwarmNode
from weft.engine.adapters import EngineAdapters, NameAdapters, NetworkAdapters, Origin
from weft.engine.engine import Engine
from weft.engine.networking import Networking
from weft.errors import (
    Damaged,
    FailedPrecondition,
    InvalidArgument,
    OperationFailed,
    Unavailable,
    WeftError,
    cause_of,
)
from weft.linux import conntrack, host, netns, ping, sysctl, xfrm
from weft.linux.base import EspEngine
from weft.linux.esp import datapath
from weft.linux.esp.client import UserspaceEngine
from weft.linux.kernel import RealKernel
from weft.linux.xfrm import KernelEngine
from weft.model.addresses import PortKey
from weft.model.container import Container, NodeEvent
from weft.model.health import Health
from weft.model.host import HostInfo
from weft.model.ids import ContainerId, NodeId
from weft.model.local_network import LocalEndpoint, LocalNetwork
from weft.model.membership import InitRequest, JoinRequest, Membership
from weft.model.sandbox import GATEWAY_INTERFACE, NodeFacts
from weft.network.flows import Stale
from weft.network.kernel_state import HOST
from weft.network.ownership import ESP_DEVICE, ESP_SANDBOX
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.images import ImageStore
from weft.store.etcd.base import NO_MAJORITY
from weft.store.etcd.external import ExternalEtcd
from weft.system import journal as logs
from weft.system.files import make_directory, make_missing
from weft.system.tls_files import TlsFiles
from weft.system.waiting import first

log = logging.getLogger(__name__)

_UMASK = 0o022
"""Set whatever umask the service manager has set. Directories that the OCI runtime makes in a
container, for its mounts and its working directory, get their modes by it, and a container's users
must be able to enter them. Files that are only for root have explicit modes."""

NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" '
    "to connect this node to swarm and try again."
)
WORKER = (
    "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. "
    "Please run this command on a manager node or promote the current node to a manager."
)
ALREADY = (
    'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join'
    " another one."
)
LEAVING_MANAGER = (
    "You are attempting to leave the swarm on a node that is participating as a manager. "
)
LAST_MANAGER = (
    "Removing the last manager erases all current state of the swarm. Use `--force` to ignore this"
    " message. "
)
NO_QUORUM = (
    "Removing this node leaves {left} managers out of {all}. Without a Raft quorum your swarm will"
    " be inaccessible. "
)
ONLY_WAY = (
    "The only way to restore a swarm that has lost consensus is to reinitialize it with"
    " `--force-new-cluster`. Use `--force` to suppress this message."
)


@dataclass(frozen=True)
class TcpHost:
    address: str
    port: int


@dataclass(frozen=True, kw_only=True)
class DaemonOptions:
    data_root: Path = Path("/var/lib/weft")
    run_dir: Path = Path("/run/weft")
    netns_dir: Path = Path("/run/docker/netns")
    socket: Path = Path("/var/run/docker.sock")
    log_level: str = "info"
    log_format: logs.Format = "text"
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels of the engine: constraints on `engine.labels.*` refer to them."""
    sockets: tuple[Path, ...] = ()
    """Sockets besides `socket`."""
    tcp: tuple[TcpHost, ...] = ()
    tls: TlsFiles | None = None
    """Keys and certificates for `tcp`; without them there is no API on TCP."""
    store: ExternalEtcd | None = None
    """The external etcd, if any."""


class WeftNode:
    """`api.backend.Node` for this host. `open` starts it."""

    def __init__(self, options: DaemonOptions, info: HostInfo) -> None:
        self._options = options
        self._kernel = RealKernel(options.netns_dir)
        self.info = info
        self._image_store = ImageStore(options.data_root / "images", time.time_ns)
        self.containers = ConmonRuntime(
            options.data_root, options.run_dir, self._image_store, time.time_ns
        )
        self._esp, self._no_esp = _choose_engine(options)
        confiner = self.containers.confiner
        self.info = msgspec.structs.replace(
            info,
            esp_engine=self._esp.name if self._esp else "",
            apparmor=confiner.apparmor.in_use,
            seccomp=confiner.filters,
            warnings=(*info.warnings, *confiner.warnings),
        )
        self.engine = Engine(info.engine_id, self._adapters())
        self.images = self.engine.images
        self._member: SwarmNode | None = None
        self._damage = ""
        """Why the node cannot tell of which swarm it is a member."""
        self._changing = asyncio.Lock()
        """Held while the node enters or leaves a swarm."""
        self._environment = NodeEnvironment(
            data=options.data_root / "swarm",
            run=options.run_dir,
            engine=self.engine,
            facts=self._facts,
            host=HostAdapters(
                description=lambda: hostinfo.describe(info),
                routes=host.routes,
                open_echo=ping.EchoSocket,
            ),
            own_ports=_own_ports(options),
            external_etcd=options.store,
        )

    async def open(self) -> None:
        await self.containers.load()
        self.engine.resume()
        try:
            self._member = await SwarmNode.resume(self._environment)
        except Damaged as error:
            self._damage = str(error)
            log.error("swarm.damaged cause=%s", error)

    async def close(self) -> None:
        """Closes the daemon; containers, networks and traffic go on."""
        if self._member is not None:
            await self._member.close()
        await self.engine.close()
        await self.containers.close()
        await self._kernel.close()
        if self._esp is not None:
            await self._esp.close()

    async def host_stops(self) -> None:
        """The host is being shut down: see `Agent.host_stops`."""
        if self._member is not None:
            await self._member.agent.host_stops()

    async def failed(self) -> None:
        """Waits as long as all parts run; raises the error that ended a part unexpectedly."""
        while True:
            member = self._member
            if member is not None:
                await member.failed()
            await asyncio.sleep(1)

    # --- swarm

    @property
    def membership(self) -> Membership:
        if self._member is not None:
            return self._member.membership
        return Membership(state="error", error=self._damage) if self._damage else Membership()

    def swarm(self) -> Swarm:
        if self._member is None:
            raise Unavailable(self._damage or NO_SWARM)
        if self._member.manager is None:
            found = self._member.membership
            if found.state == "error":
                raise Unavailable(found.error)
            raise Unavailable((found.error or NO_MAJORITY) if found.is_manager else WORKER)
        return self._member.manager

    async def init(self, request: InitRequest) -> NodeId:
        async with self._changing:
            if self._member is not None and request.force_new_cluster:
                await self._member.go_on_alone()
                log.info("swarm.forced node=%s", self._member.member.node)
                return self._member.member.node
            self._check_free()
            listen, advertise, data_path = host.choose_addresses(
                request.listen_address, request.advertise_address, request.data_path_address
            )
            request = msgspec.structs.replace(request, listen_address=listen)
            self._member = await SwarmNode.found(self._environment, request, advertise, data_path)
            log.info("swarm.created node=%s advertise=%s", self._member.member.node, advertise)
            return self._member.member.node

    def _check_free(self) -> None:
        if self._damage:
            raise Unavailable(self._damage)
        if self._member is not None:
            raise Unavailable(ALREADY)

    async def join(self, request: JoinRequest) -> None:
        async with self._changing:
            self._check_free()
            listen, advertise, data_path = host.choose_addresses(
                request.listen_address, request.advertise_address, request.data_path_address
            )
            request = msgspec.structs.replace(request, listen_address=listen)
            self._member = member = await SwarmNode.enter(
                self._environment, request, advertise, data_path
            )
            if not await member.settled(JOIN_PATIENCE):
                raise Unavailable(STILL_JOINING)
            log.info("swarm.joined node=%s advertise=%s", self._member.member.node, advertise)

    async def leave(self, force: bool) -> None:
        async with self._changing:
            member = self._member
            if member is None and self._damage:
                if not force:
                    raise FailedPrecondition(self._damage)
                await forget(self._environment.data, self._environment.run)
                log.info("swarm.left cause=its membership could not be read")
                self._damage = ""
                return
            if member is None:
                raise Unavailable("This node is not part of a swarm")
            if member.is_manager and not force:
                raise Unavailable(LEAVING_MANAGER + _what_leaving_means(member.manager))
            self._member = None
            await member.leave(force)
            log.info("swarm.left node=%s", member.member.node)

    # --- containers, networks and events of this host

    async def kill_container(self, container: Container, signal: str) -> None:
        await self.engine.kill(container, signal)

    async def remove_container(self, id: ContainerId) -> None:
        await self.engine.remove(id)

    @property
    def _networking(self) -> Networking | None:
        """Containers are connected only while the node is in a swarm."""
        return self._member.agent.networking if self._member is not None else None

    def local_networks(self) -> Sequence[LocalNetwork]:
        networking = self._networking
        return (
            networking.local_networks() if networking is not None else self.engine.local_networks()
        )

    def container_networks(
        self, id: ContainerId
    ) -> Mapping[str, tuple[LocalNetwork, LocalEndpoint]]:
        return self._networking.container_networks(id) if self._networking is not None else {}

    def container_gateway(self, id: ContainerId) -> LocalEndpoint | None:
        return self._networking.container_gateway(id) if self._networking is not None else None

    def _facts(self, node: NodeId, data_path: IPv4Address) -> NodeFacts:
        """Facts of the node. The MTU is read at each start, since the operator may have changed
        it."""
        return NodeFacts(
            node=node,
            data_path_address=data_path,
            underlay_mtu=host.interface_with(data_path).mtu,
            gateway=_gateway(),
            esp_engine=self._esp.name if self._esp else None,
        )

    def health(self, container: Container) -> Health | None:
        return self.engine.health.of(container)

    def events(self, since: int = 0, until: int = 0) -> AsyncIterator[NodeEvent]:
        return self.engine.events.listen(since, until)

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
            esp=self._esp,
            no_esp=self._no_esp,
            namespaces=directory,
        )
        origin = Origin(clock=time.time_ns, entropy=secrets.token_bytes)
        return EngineAdapters(
            runtime=self.containers, images=self._image_store, network=network, origin=origin
        )


def run(options: DaemonOptions) -> int:
    """Runs the daemon until SIGTERM or SIGINT. Returns the exit status: 1 if it could not start or
    a part failed."""
    os.umask(_UMASK)
    logs.start(options.log_level, options.log_format)
    try:
        return uvloop.run(_run(options))
    except WeftError as error:
        log.error("daemon.failed cause=%s", error)
        return 1


async def _run(options: DaemonOptions) -> int:
    problems = [*hostinfo.missing_programs(), *host.check_features()]
    if problems:
        raise OperationFailed("cannot start: " + "; ".join(problems))
    _make_directories(options)
    node = WeftNode(options, hostinfo.read(options.data_root, time.time_ns(), options.labels))
    api = ApiServer(node)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await node.open()
        await _serve(api, options)
        log.info("daemon.ready version=%s data_root=%s", node.info.version, options.data_root)
        await first(stop.wait(), node.failed())
        log.info("daemon.stopping")
        if await asyncio.to_thread(hostinfo.is_stopping):
            await node.host_stops()
        node.containers.look_away()
    finally:
        await api.close()
        await node.close()
    return 0


async def _serve(api: ApiServer, options: DaemonOptions) -> None:
    for path in (options.socket, *options.sockets):
        await api.start(path)
    for tcp in options.tcp:
        if options.tls is None:
            raise InvalidArgument(
                f"cannot serve the API on tcp://{tcp.address}:{tcp.port}: it needs mutual TLS"
            )
        await api.start_tls(tcp.address, tcp.port, options.tls)


def _what_leaving_means(manager: Swarm | None) -> str:
    """The warning to a manager that leaves without having been demoted."""
    if manager is None:
        return "Doing so may lose the consensus of your cluster. " + ONLY_WAY
    managers = [node.id for node in manager.state.nodes.values() if node.manager_address]
    reachable = len(manager.leadership_status.present.intersection(managers))
    if len(managers) <= 1:
        return LAST_MANAGER
    if 2 * (reachable - 1) <= len(managers):
        return NO_QUORUM.format(left=reachable - 1, all=len(managers)) + ONLY_WAY
    return ONLY_WAY


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


def _choose_engine(options: DaemonOptions) -> tuple[EspEngine | None, str]:
    """Chooses by trying the kernel, not by its version: (engine, "") or (None, the missing
    features)."""
    why_not = xfrm.why_not()
    if why_not is None:
        return KernelEngine(options.data_root / "esp"), ""
    missing = [why_not, *datapath.what_is_missing()]
    if len(missing) > 1:
        return None, "; ".join(missing)
    namespace = options.netns_dir / ESP_SANDBOX
    engine: EspEngine = UserspaceEngine(
        options.run_dir, options.data_root / "esp", ESP_DEVICE, namespace=namespace
    )
    return engine, ""


def _own_ports(options: DaemonOptions) -> OwnPorts:
    """Ports that this daemon needs besides the swarm's ports, with their purpose. An external etcd
    may be on any host, this one included."""
    found: dict[PortKey, str] = {}
    for endpoint in options.store.endpoints if options.store else ():
        found["tcp", int(endpoint.rpartition(":")[2])] = f"the swarm's state is at {options.store}"
    for tcp in options.tcp:
        found["tcp", tcp.port] = f"the API listens on tcp://{tcp.address}:{tcp.port}"
    return found


def _gateway() -> IPv4Interface:
    """The address for docker_gwbridge: in the first local pool that no route of the host
    overlaps."""
    taken = host.routes()
    for second in (GATEWAY_INTERFACE.network.network_address.packed[1], *range(19, 32)):
        candidate = IPv4Interface(f"172.{second}.0.1/16")
        if not any(candidate.network.overlaps(route) for route in taken):
            return candidate
    raise OperationFailed(
        "cannot create docker_gwbridge: every subnet from 172.18.0.0/16 to 172.31.0.0/16 is in use"
    )


async def _open_resolver(
    path: Path, address: IPv4Address, port: int
) -> tuple[socket.socket, socket.socket]:
    return netns.open_udp_tcp(path, address, port)


async def _flush_flows(namespace: Path | None, flows: frozenset[Stale]) -> None:
    """`namespace`: None for the host's own."""

    def flush() -> None:
        # Looking costs the kernel 9 ms however few flows there are.
        if sysctl.read("net.netfilter.nf_conntrack_count") != "0":
            conntrack.delete_stuck(*flows)

    if namespace is None:
        await netns.on_thread(flush)
    elif netns.is_live(namespace):
        await asyncio.get_running_loop().run_in_executor(None, netns.run_in, namespace, flush)
