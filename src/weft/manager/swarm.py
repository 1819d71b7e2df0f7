"""The swarm as its users see it: `api.backend.Swarm`, on a manager's store.

    reads    the state itself, as new as this manager has it; events and logs as they come
    writes   catch up with the store, decide (`control/requests/`), commit

A write returns once it is committed. What follows from it, the control loops do."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from weft.control import keys
from weft.control.requests import cluster, nodes, services
from weft.control.requests import networks as network_requests
from weft.control.requests.traces import question
from weft.errors import Unavailable
from weft.manager import data, networks
from weft.manager.autolock import Autolock
from weft.manager.broker import StreamBroker
from weft.manager.captures import capture
from weft.manager.events import node_events
from weft.manager.logs import read_logs
from weft.manager.looks import flows, top
from weft.manager.ports import HostSettings, ManagerPorts
from weft.manager.probes import Prober
from weft.manager.registry_auths import RegistryAuths
from weft.manager.traces import Tracer
from weft.manager.transaction import transact
from weft.manager.vault import Vault
from weft.model.capture import CaptureEvent, CaptureWanted
from weft.model.cluster import Cluster, ClusterSpec, JoinTokens, RootCa
from weft.model.container import NodeEvent
from weft.model.flows import FlowsWanted
from weft.model.ids import SWARM_ID_BYTES, NetworkId, NodeId, ServiceId, swarm_id
from weft.model.leadership_status import LeadershipStatus
from weft.model.logs import LogsWanted, TaskLog
from weft.model.look import LookEvent
from weft.model.network import Network, NetworkSpec
from weft.model.node import NodeSpec
from weft.model.probe import Probed
from weft.model.registry import AuthSource, RegistryAuth, SealedAuth
from weft.model.secret import DataKind, DataSpec
from weft.model.service import ServiceSpec
from weft.model.state import Change, ClusterState, cluster_of
from weft.model.top import TopWanted
from weft.model.trace import TraceWanted
from weft.pki import stored_secrets
from weft.store.base import Leadership, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SwarmParts:
    """The parts of the manager that requests of users need."""

    vault: Vault
    registry_auths: RegistryAuths
    autolock: Autolock
    streams: StreamBroker


class Swarm:
    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        ports: ManagerPorts,
        host: HostSettings,
        parts: SwarmParts,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._ports = ports
        self._host = host
        self._vault = parts.vault
        self._registry_auths = parts.registry_auths
        self._autolock = parts.autolock
        self._streams = parts.streams

    # --- reads

    @property
    def state(self) -> ClusterState:
        return self._store.state

    async def catch_up(self) -> None:
        if self._store.is_healthy:
            with suppress(Unavailable):
                await self._store.sync()

    @property
    def cluster(self) -> Cluster:
        """As stored."""
        return cluster_of(self._store.state)

    async def join_tokens(self) -> JoinTokens:
        if stored_secrets.has_sealed(self.cluster):
            await self._vault.completed("show the join tokens")
        return self._vault.opened_tokens(self.cluster)

    @property
    def leadership_status(self) -> LeadershipStatus:
        return self._leadership.leadership_status

    def events(self) -> AsyncIterator[NodeEvent]:
        """New events of swarm objects, without end."""
        return node_events(self._store, self._ports.clock)

    def logs(self, wanted: LogsWanted) -> AsyncGenerator[Sequence[TaskLog], None]:
        return read_logs(self._streams, self._store, wanted)

    def capture(self, wanted: CaptureWanted) -> AsyncGenerator[CaptureEvent, None]:
        return capture(self._streams, self._store, self._ports.clock, wanted)

    def flows(self, wanted: FlowsWanted) -> AsyncGenerator[LookEvent, None]:
        return flows(self._streams, self._store, wanted)

    def top(self, wanted: TopWanted) -> AsyncGenerator[LookEvent, None]:
        return top(self._streams, self._store, wanted)

    async def trace(self, wanted: TraceWanted) -> Probed:
        broker, state, ports = self._streams, self._store.state, self._ports
        trace = await Tracer(broker, state, broker.own).trace(wanted)
        if not wanted.probe:
            return Probed(trace)
        entry = question(state, broker.own, wanted).entry
        prober = Prober(broker, state, ports.clock, ports.entropy)
        return Probed(trace, await prober.probe(trace, entry, wanted.protocol))

    # --- the cluster

    async def update_cluster(
        self,
        version: int,
        spec: ClusterSpec,
        rotate_worker_token: bool,
        rotate_manager_token: bool,
        root: RootCa | None = None,
        rotate_unlock_key: bool = False,
    ) -> None:
        await self._store.sync()
        tools = cluster.Tools(
            self._ports.authority,
            self._ports.clock(),
            self._ports.entropy,
            self._vault.opened_root,
        )
        unlock_key = self.cluster.unlock_key
        if spec.auto_lock and (rotate_unlock_key or unlock_key is None):
            unlock_key = await self._autolock.new_key()
        wanted = cluster.Wanted(spec, rotate_worker_token, rotate_manager_token, root, unlock_key)
        await self._write(
            lambda state: self._vault.sealed(cluster.update(state, version, wanted, tools))
        )

    async def unlock_key(self) -> str:
        await self._store.sync()
        return await self._autolock.shown()

    async def begin_autolock(self) -> None:
        """Turns autolock on in a swarm that was founded with it. Raises `Unavailable`."""
        await self._autolock.begin()

    async def rotate_keys(self) -> None:
        await self._write(
            lambda state: [
                keys.rotation(cluster_of(state), self._ports.clock(), self._ports.entropy)
            ]
        )

    # --- networks

    async def create_network(self, spec: NetworkSpec) -> Network:
        await self._store.sync()
        network = await networks.create(self._store, NetworkId(self._id()), spec)
        for warning in self.network_warnings(network):
            log.warning("network.hides_route network=%s cause=%s", network.id, warning)
        return network

    def network_warnings(self, network: Network) -> Sequence[str]:
        return network_requests.warnings(self._store.state, network, self._host.routes)

    async def remove_network(self, id: NetworkId) -> None:
        await networks.remove(self._store, id)

    # --- services

    async def create_service(
        self, spec: ServiceSpec, auth: RegistryAuth | None = None
    ) -> ServiceId:
        id = ServiceId(self._id())
        now = self._ports.clock()
        sealed = await self._sealed(id, spec, auth) if auth is not None else None
        await self._write(
            lambda state: services.creation(state, id, spec, now, self._host.own_ports, sealed)
        )
        return id

    async def update_service(
        self,
        id: ServiceId,
        version: int,
        spec: ServiceSpec,
        rollback: Literal["", "previous"] = "",
        auth: RegistryAuth | AuthSource = "spec",
    ) -> None:
        now = self._ports.clock()
        if rollback == "previous":
            await self._write(
                lambda state: services.rollback(state, id, version, now, self._host.own_ports)
            )
        else:
            new = await self._sealed(id, spec, auth) if isinstance(auth, RegistryAuth) else auth
            await self._write(
                lambda state: services.update(
                    state, id, version, spec, now, self._host.own_ports, new
                )
            )

    async def _sealed(
        self, id: ServiceId, spec: ServiceSpec, auth: RegistryAuth
    ) -> SealedAuth | None:
        return await self._registry_auths.seal(id, spec.task.container.image, auth)

    async def remove_service(self, id: ServiceId) -> None:
        await self._write(lambda state: services.removal(state, id))

    # --- secrets and configs

    async def create_data(self, kind: DataKind, spec: DataSpec, content: bytes) -> str:
        id = self._id()
        await data.create(self._store, self._vault, kind, id, spec, content)
        return id

    async def update_data(
        self, kind: DataKind, id: str, version: int, spec: DataSpec, content: bytes
    ) -> None:
        await data.update(self._store, self._vault, (kind, id), version, spec, content)

    async def remove_data(self, kind: DataKind, id: str) -> None:
        await data.remove(self._store, kind, id)

    # --- nodes

    async def update_node(self, id: NodeId, version: int, spec: NodeSpec) -> None:
        await self._write(
            lambda state: nodes.update(
                state, id, version, spec, self.leadership_status, self._host.obstacle
            )
        )

    async def remove_node(self, id: NodeId, force: bool) -> None:
        await self._write(lambda state: nodes.removal(state, id, force))

    # ---

    def _id(self) -> str:
        return swarm_id(self._ports.entropy(SWARM_ID_BYTES))

    async def _write(self, decide: Callable[[ClusterState], Sequence[Change]]) -> None:
        """Commits a user's request, decided on all that was committed before, also through other
        managers."""
        await self._store.sync()
        await transact(self._store, decide)
