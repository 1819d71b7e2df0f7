"""A manager: all that one process needs to run a swarm whose state is in the store (`bootstrap.py`
makes the first state).

    api/      ──▶ `swarm.py`, requests of users                                ──▶ store
    store     ──▶ control loops: orchestrator, allocator, scheduler, liveness  ──▶ store
    store     ──▶ dispatcher ──▶ sessions of the agents ──▶ statuses           ──▶ store

The parts know the store and not each other. The session listener sees `Manager` as
`session.base.Manager`; the API sees `Manager.swarm` as `api.backend.Swarm`."""

import asyncio
import logging

from weft.control.examination import examine, name_of
from weft.control.requests import nodes
from weft.errors import Unavailable
from weft.lens import catalogue as metric
from weft.lens.page import Page
from weft.manager import admission, attachments, examination, metrics
from weft.manager.autolock import Autolock
from weft.manager.broker import StreamBroker
from weft.manager.certificates import Certificates, known_manager, known_peer
from weft.manager.dispatch import WITHOUT_MAJORITY, Dispatcher, SessionParts, manager_addresses
from weft.manager.incoming import checked
from weft.manager.leader import Leader
from weft.manager.liveness import Liveness, steady
from weft.manager.loops import ControlLoop, whole
from weft.manager.members import Membership
from weft.manager.ports import HostSettings, ManagerPorts
from weft.manager.registry_auths import RegistryAuths
from weft.manager.statuses import StatusWriter
from weft.manager.suspicion import Suspicion
from weft.manager.swarm import Swarm, SwarmParts
from weft.manager.transaction import transact
from weft.manager.vault import Vault
from weft.model.attached import AttachmentGrant
from weft.model.finding import Report, ordered
from weft.model.ids import SWARM_ID_BYTES, NodeId, swarm_id
from weft.model.meta import Nanoseconds
from weft.model.node import NodeState
from weft.model.state import ClusterState, Decision, Kind, cluster_of
from weft.pki import stored_secrets
from weft.session.base import (
    AdmissionRequest,
    Admitted,
    AttachmentRequest,
    Identity,
    ManagerSession,
    MemberGrant,
    MemberRequest,
    PublishRequest,
    SealingKeyGrant,
    StreamSource,
)
from weft.session.messages import Revoked
from weft.store.base import Leadership, Store
from weft.store.etcd.base import Kv
from weft.system.supervision import ended, lasting

log = logging.getLogger(__name__)

_HEARTBEATS: tuple[Kind, ...] = ("cluster",)
"""Changes that start a liveness run at once: the heartbeat period. Liveness checks nodes
periodically."""


class Manager:
    def __init__(
        self,
        own: NodeId,
        store: Store,
        leadership: Leadership,
        ports: ManagerPorts,
        host: HostSettings | None = None,
        kv: Kv | None = None,
    ) -> None:
        """`own`: this manager's node. `kv`: the etcd client behind a store that several managers
        share."""
        self._own = own
        self._store = store
        self._leadership = leadership
        self._ports = ports
        self._host = host = host or HostSettings()
        clock = ports.clock
        self._kv = kv
        self._loops: tuple[ControlLoop, ...] = ()
        """Those that run on every manager."""
        self._statuses = StatusWriter(store, clock)
        self._membership = Membership(own, store, leadership, kv, host.no_members, ports.refuse)
        self._vault = Vault(own, store, leadership, ports)
        self._leader = Leader(own, store, leadership, ports, host, self._membership, self._vault)
        self._liveness = Liveness(own)
        self._certificates = Certificates(
            ports.authority, clock, ports.entropy, self._vault.opened_root
        )
        self._suspicion = Suspicion(own, store, clock, ports.probe, ports.open_echo)
        self._autolock = Autolock(store, self._vault, ports.files, ports.entropy)
        registry_auths = RegistryAuths(self._vault)
        parts = SessionParts(
            liveness=self._liveness,
            statuses=self._statuses,
            certificates=self._certificates,
            suspicion=self._suspicion,
            vault=self._vault,
            registry_auths=registry_auths,
        )
        patience = kv.pace.of(WITHOUT_MAJORITY) if kv is not None else WITHOUT_MAJORITY
        self._dispatcher = Dispatcher(own, store, clock, parts, patience)
        self.streams = StreamBroker(own, store, clock, self._dispatcher.tell, ports.relay, self._id)
        self.swarm = Swarm(
            store,
            leadership,
            ports,
            host,
            SwarmParts(
                vault=self._vault,
                registry_auths=registry_auths,
                autolock=self._autolock,
                streams=self.streams,
            ),
        )
        self._addresses = admission.Addresses(store)
        self._running: asyncio.Task[None] | None = None

    # --- life

    async def run(self) -> None:
        """Runs until cancelled. A part that fails is restarted, while the others go on."""
        liveness = ControlLoop(
            "liveness", self._store, steady, _HEARTBEATS, whole(self._find_silent)
        )
        self._loops = (liveness,)
        parts = {
            "statuses": self._statuses.run,
            "dispatcher": self._dispatcher.run,
            "health": self._dispatcher.watch_health,
            "liveness": liveness.run,
            "suspicion": self._suspicion.run,
            "door": self._membership.keep_door,
            "vault": self._vault.run,
            "autolock": self._autolock.run,
            "publishers": self.streams.watch,
            "leader": self._leader.run,
        }
        try:
            async with asyncio.TaskGroup() as group:
                for name, run in parts.items():
                    group.create_task(lasting(name, run), name=name)
        finally:
            self._loops = ()
            liveness.close()

    async def start(self) -> None:
        """Runs the manager in the background until `close`."""
        self._running = asyncio.create_task(self.run(), name="manager")

    async def close(self) -> None:
        """Ends the sessions and all tasks. The store stays open: the caller owns it."""
        if self._running is not None:
            running, self._running = self._running, None
            await ended(running)
        self.streams.close()
        self._dispatcher.close()

    async def failed(self) -> None:
        """Waits while the manager runs, and raises what ended it. Cancelling this call does not
        stop the manager."""
        if self._running is not None:
            await asyncio.wait((self._running,))
            if self._running is not None and not self._running.cancelled():
                self._running.result()

    async def __aenter__(self) -> "Manager":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _id(self) -> str:
        return swarm_id(self._ports.entropy(SWARM_ID_BYTES))

    def _find_silent(self, state: ClusterState, now: Nanoseconds) -> Decision:
        if not self._store.is_healthy:
            self._liveness.forget()
            spec = cluster_of(state).spec
            return Decision(wake_at=now + spec.heartbeat)
        status = self._leadership.leadership_status
        return self._liveness.reconcile(state, now, status, self._ports.clock())

    # --- agents (session.base.Manager)

    async def admit(self, request: AdmissionRequest, source: str = "") -> Admitted:
        checked(request, source)
        if stored_secrets.has_sealed(cluster_of(self._store.state)):
            await self._vault.completed("admit a node")
        return await admission.admit(
            self._store,
            self._vault.opened_tokens,
            self._ports.authority,
            self._certificates,
            request,
            self._ports.entropy,
            self._host.obstacle,
        )

    def knows(self, address: str) -> bool:
        return address in self._addresses.current()

    @property
    def is_serving(self) -> bool:
        return self._running is not None and self._store.is_healthy

    @property
    def epoch(self) -> int:
        return cluster_of(self._store.state).epoch

    async def serve(self, session: ManagerSession) -> None:
        await self._dispatcher.serve(session)

    async def enlist(self, peer: Identity, request: MemberRequest) -> MemberGrant:
        return await self._membership.enlist(peer, checked(request))

    async def admit_vote(self, peer: Identity) -> None:
        await self._membership.admit_vote(peer)

    async def revoked(self, peer: Identity) -> Revoked:
        if not self.is_serving:
            raise Unavailable("this manager has no majority of the managers")
        known_peer(self._store.state, peer)
        return Revoked(cluster_of(self._store.state).revoked)

    async def attach(self, peer: Identity, request: AttachmentRequest) -> AttachmentGrant:
        checked(request)
        await self._store.sync()
        known_peer(self._store.state, peer)
        return await attachments.attach(self._store, peer.node, request, self._ports.clock())

    async def sealing_keys(self, peer: Identity) -> SealingKeyGrant:
        await self._store.sync()
        known_manager(self._store.state, peer)
        return SealingKeyGrant(self._vault.keys)

    async def pass_on(self, peer: Identity, request: PublishRequest) -> None:
        checked(request)
        await self._store.sync()
        known_manager(self._store.state, peer)
        self._dispatcher.tell(request.node, request.publish)

    async def take_stream(self, source: StreamSource, subscription: str) -> None:
        await self.streams.take(source, subscription)

    # --- this node as a manager

    async def go_on_alone(self) -> None:
        """Makes this node the only manager: the others are lost, with their etcd members."""
        await transact(self._store, lambda state: nodes.forced_beginning(state, self._own))

    async def put_metrics(self, page: Page) -> None:
        """Raises `Unavailable` or `TimeoutError` if etcd does not answer."""
        state, leader = self._store.state, self._leadership.leadership_status.leader
        metrics.put_objects(page, state)
        page.put(metric.LEADER, leader == self._own)
        page.spread(metric.SCHEDULING_DELAY, self._statuses.scheduling_seconds)
        metrics.put_loops(page, (*self._loops, *self._leader.loops))
        metrics.put_sessions(page, state, self._dispatcher, self._suspicion)
        await metrics.put_store(page, self._store, self._kv)

    async def examine(self, repair: bool) -> Report:
        """What is wrong with the swarm, and with each node. `repair`: the nodes mend their networks
        first. Raises `Unavailable` if this manager stops."""
        ready = [
            id
            for id, node in self._store.state.nodes.items()
            if node.status.state is NodeState.READY
        ]
        asked = await examination.ask(self.streams, ready, self._ports.clock, repair)
        state, now = self._store.state, self._ports.clock()
        found = [
            *await examination.examine_store(self._store, self._kv),
            *examine(state, self._leadership.leadership_status, now),
            *examination.findings(state, asked),
        ]
        mended = (
            (name_of(state.nodes[id]), what)
            for id, told in asked.told.items()
            if id in state.nodes
            for what in told.mended
        )
        return Report(findings=ordered(found), mended=tuple(mended))

    async def resign(self) -> bool:
        """Stops being a manager. True if this is the last manager: then nothing changes."""
        await self._store.sync()
        others = nodes.serving_beside(self._store.state, self._own)
        if others:
            await transact(self._store, lambda state: nodes.resignation(state, self._own))
        return not others

    async def disown(self) -> None:
        """Revokes all certificates of this manager."""
        await self._store.sync()
        await transact(self._store, lambda state: nodes.disowning(state, self._own))

    async def arrive(self, address: str) -> None:
        """Tells everybody that this manager serves at `address` (`host:port`)."""
        await transact(
            self._store, lambda state: nodes.arrival(state, self._own, address), independent=True
        )

    @property
    def absent(self) -> tuple[str, ...]:
        """`host:port` of the other managers that are not present now."""
        present = {self._own, *self._leadership.leadership_status.present}
        return tuple(
            address for id, address in manager_addresses(self._store.state) if id not in present
        )
