"""A manager: what one process needs to run a swarm from a store that has one (`bootstrap.py` makes the first state).

    api/      ──▶ Swarm operations (services.py, networks.py, nodes.py, cluster.py) ──▶ store
    store     ──▶ control loops: orchestrator, allocator, scheduler, liveness       ──▶ store
    store     ──▶ dispatcher ──▶ sessions of the agents ──▶ statuses                ──▶ store

The parts know the store and not each other. `Manager` is what the API sees (`api.backend.Swarm`) and what the session listener
sees (`cluster.base.Manager`).
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network
from typing import Literal

from weft.cluster.base import AdmissionRequest, Admitted, Identity, ManagerSession, MemberGrant, MemberRequest
from weft.control import keys, rotation
from weft.control.allocator import allocator
from weft.control.scheduler import scheduler
from weft.errors import FailedPrecondition
from weft.manager import cluster, networks, nodes, services
from weft.manager.authority import Authority
from weft.manager.certificates import Certificates, known_manager
from weft.manager.dispatch import Dispatcher
from weft.manager.events import node_events
from weft.manager.liveness import Liveness
from weft.manager.loops import ControlLoop, whole
from weft.manager.orchestration import Orchestration
from weft.manager.statuses import StatusWriter
from weft.manager.transaction import cluster_of, transact
from weft.model.cluster import Cluster, ClusterSpec, RootCa
from weft.model.container import NodeEvent
from weft.model.ids import SWARM_ID_BYTES, NetworkId, NodeId, ServiceId, TaskId, swarm_id
from weft.model.meta import Nanoseconds
from weft.model.network import Network, NetworkSpec
from weft.model.node import NodeSpec
from weft.model.service import ServiceSpec
from weft.model.state import KINDS, ClusterState, Decision
from weft.store.base import Store

log = logging.getLogger(__name__)


class Manager:
    """`clock`: nanoseconds since 1970. `entropy(n)`: n random bytes. `host_routes`: subnets that this host has routes to; those
    of the others come with their sessions."""

    def __init__(
        self, store: Store, clock: Callable[[], Nanoseconds], entropy: Callable[[int], bytes], authority: Authority,
        host_routes: Iterable[IPv4Network] = (),
    ) -> None:  # fmt: skip
        self._store = store
        self._clock = clock
        self._entropy = entropy
        self._authority = authority
        self._own_routes = tuple(host_routes)
        self._statuses = StatusWriter(store)
        liveness = Liveness()
        self._dispatcher = Dispatcher(store, clock, liveness, self._statuses, Certificates(authority, clock, entropy))
        orchestration = Orchestration(lambda: TaskId(self._id()))
        loop = partial(ControlLoop, store=store, clock=clock)
        self._loops = (
            loop("orchestrator", kinds=("cluster", "node", "service", "task"), reconcile=orchestration.reconcile),
            loop("allocator", kinds=KINDS, reconcile=whole(self._allocate)),
            loop("scheduler", kinds=("node", "service", "task"), reconcile=whole(scheduler.reconcile)),
            loop("keys", kinds=("cluster", "network"), reconcile=whole(self._renew_keys)),
            loop("rotation", kinds=("cluster", "node"), reconcile=whole(self._finish_rotation)),
            loop("liveness", kinds=("cluster", "node"), reconcile=whole(liveness.reconcile)),
        )
        self._running: asyncio.Task[None] | None = None

    # --- life

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for loop in self._loops:
                group.create_task(loop.run(), name=loop.name)
            group.create_task(self._statuses.run(), name="statuses")
            group.create_task(self._dispatcher.run(), name="dispatcher")

    async def start(self) -> None:
        """Runs it in the background until `close`."""
        self._running = asyncio.create_task(self.run(), name="manager")

    async def close(self) -> None:
        """Ends the sessions and all tasks. The store stays open: it is the caller's."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
            self._running = None
        self._dispatcher.close()
        for loop in self._loops:
            loop.close()

    async def __aenter__(self) -> "Manager":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _allocate(self, state: ClusterState, now: Nanoseconds) -> Decision:
        return allocator.reconcile(state, now, self._routes())

    def _renew_keys(self, state: ClusterState, now: Nanoseconds) -> Decision:
        return keys.reconcile(state, now, self._entropy)

    def _finish_rotation(self, state: ClusterState, now: Nanoseconds) -> Decision:
        return rotation.reconcile(state, now, self._entropy)

    def _id(self) -> str:
        return swarm_id(self._entropy(SWARM_ID_BYTES))

    def _routes(self) -> Sequence[IPv4Network]:
        """Of all hosts, each once. What a host reports and is no IPv4 subnet concerns no overlay."""
        reported = {route for routes in self._dispatcher.routes.values() for route in routes}
        return tuple(dict.fromkeys((*self._own_routes, *(route for text in sorted(reported) for route in _subnet(text)))))

    # --- agents (cluster.base.Manager)

    async def admit(self, request: AdmissionRequest) -> Admitted:
        return await nodes.admit(self._store, self._authority, request, self._clock(), self._entropy)

    async def serve(self, session: ManagerSession) -> None:
        await self._dispatcher.serve(session)

    async def enlist(self, peer: Identity, request: MemberRequest) -> MemberGrant:
        known_manager(self._store.state, peer)
        raise FailedPrecondition("cannot take in a manager: this swarm keeps its state on one manager")

    async def admit_vote(self, peer: Identity) -> None:
        known_manager(self._store.state, peer)
        raise FailedPrecondition("cannot take in a manager: this swarm keeps its state on one manager")

    # --- users (api.backend.Swarm)

    @property
    def state(self) -> ClusterState:
        return self._store.state

    @property
    def cluster(self) -> Cluster:
        return cluster_of(self._store.state)

    def events(self) -> AsyncIterator[NodeEvent]:
        """New events of swarm objects, without end."""
        return node_events(self._store, self._clock)

    async def update_cluster(
        self, version: int, spec: ClusterSpec, rotate_worker_token: bool, rotate_manager_token: bool,
        root: RootCa | None = None,
    ) -> None:  # fmt: skip
        tools = cluster.Tools(self._authority, self._clock(), self._entropy)
        await transact(
            self._store,
            lambda state: cluster.update(state, version, spec, rotate_worker_token, rotate_manager_token, root, tools),
        )

    async def rotate_keys(self) -> None:
        await transact(self._store, lambda state: [keys.rotation(cluster_of(state), self._clock(), self._entropy)])

    async def create_network(self, spec: NetworkSpec) -> Network:
        return await networks.create(self._store, NetworkId(self._id()), spec, self._routes())

    async def remove_network(self, id: NetworkId) -> None:
        await transact(self._store, lambda state: networks.removal(state, id))

    async def create_service(self, spec: ServiceSpec) -> ServiceId:
        id = ServiceId(self._id())
        await transact(self._store, lambda state: services.creation(state, id, spec))
        return id

    async def update_service(
        self, id: ServiceId, version: int, spec: ServiceSpec, rollback: Literal["", "previous"] = ""
    ) -> None:  # fmt: skip
        if rollback == "previous":
            await transact(self._store, lambda state: services.rollback(state, id, version, self._clock()))
        else:
            await transact(self._store, lambda state: services.update(state, id, version, spec))

    async def remove_service(self, id: ServiceId) -> None:
        await transact(self._store, lambda state: services.removal(state, id))

    async def update_node(self, id: NodeId, version: int, spec: NodeSpec) -> None:
        await transact(self._store, lambda state: nodes.update(state, id, version, spec))

    async def remove_node(self, id: NodeId, force: bool) -> None:
        await transact(self._store, lambda state: nodes.removal(state, id, force))


def _subnet(text: str) -> tuple[IPv4Network, ...]:
    try:
        return (IPv4Network(text, strict=False),)
    except ValueError:
        return ()
