"""The control loops of the manager that leads: they run whenever this manager does. New loops begin
each time and look at everything: all that the last leader did and saw is in the state."""

import asyncio
import logging
from collections.abc import Collection

import msgspec

from weft.control import keys, rotation
from weft.control.scheduler import scheduler
from weft.errors import Unavailable
from weft.manager.incremental import Allocation, Orchestration
from weft.manager.loops import ControlLoop, Reconcile, whole
from weft.manager.members import Membership
from weft.manager.ports import HostSettings, ManagerPorts
from weft.manager.vault import Vault
from weft.model.ids import SWARM_ID_BYTES, NodeId, TaskId, swarm_id
from weft.model.meta import SECOND, Nanoseconds
from weft.model.state import KINDS, ClusterState, Decision, Kind, Put
from weft.pki import stored_secrets
from weft.store.base import Leadership, Store
from weft.system.supervision import cancelled, lasting
from weft.system.waiting import first

log = logging.getLogger(__name__)

SEALING_RETRY = 10 * SECOND
"""Until the leader looks again whether it has the sealing key."""
CLUSTER: tuple[Kind, ...] = ("cluster",)
RETRY = 1.0
"""Seconds until a new leader whose store does not answer tries again."""


class Leader:
    def __init__(
        self,
        own: NodeId,
        store: Store,
        leadership: Leadership,
        ports: ManagerPorts,
        host: HostSettings,
        membership: Membership,
        vault: Vault,
    ) -> None:
        """`own`: this manager's node. `membership`: its loop of the leader runs beside the
        others."""
        self._vault = vault
        self._own = own
        self._store = store
        self._leadership = leadership
        self._ports = ports
        self._host = host
        self._membership = membership
        self.loops: tuple[ControlLoop, ...] = ()
        """Those that run: none while another manager leads."""

    async def run(self) -> None:
        """Runs until cancelled."""
        seen = self._leadership.leadership_status
        while True:
            if seen.leader != self._own:
                seen = await self._leadership.next(seen)
                continue
            log.info("leader.begins node=%s", self._own)
            try:
                await self._store.sync()
            except Unavailable as cause:
                log.warning("leader.waits cause=%s", cause)
                await asyncio.sleep(RETRY)
                seen = self._leadership.leadership_status
                continue
            leading = asyncio.create_task(self._run_loops())
            try:
                while seen.leader == self._own and not leading.done():
                    await first(asyncio.wait((leading,)), self._leadership.next(seen))
                    seen = self._leadership.leadership_status
            finally:
                await cancelled(leading)
            if not leading.cancelled():
                leading.result()
            log.info("leader.ends node=%s", self._own)

    async def _run_loops(self) -> None:
        orchestration = Orchestration(self._new_task)
        allocation = Allocation(self._host.routes, self._host.own_ports)
        loops = (
            self._loop(
                "orchestrator", ("cluster", "node", "service", "task"), orchestration.reconcile
            ),
            self._loop("allocator", KINDS, allocation.reconcile),
            self._loop("scheduler", ("node", "service", "task"), whole(scheduler.reconcile)),
            self._loop("keys", ("cluster", "network"), whole(self._renew_keys)),
            self._loop("rotation", ("cluster", "node"), whole(self._finish_rotation)),
            self._loop("sealing", CLUSTER, whole(self._seal)),
        )
        self.loops = loops
        try:
            async with asyncio.TaskGroup() as group:
                for loop in loops:
                    group.create_task(loop.run(), name=loop.name)
                group.create_task(lasting("members", self._membership.run), name="members")
        finally:
            self.loops = ()
            for loop in loops:
                loop.close()

    def _loop(self, name: str, kinds: Collection[Kind], reconcile: Reconcile) -> ControlLoop:
        return ControlLoop(name, self._store, self._ports.clock, kinds, reconcile)

    def _new_task(self) -> TaskId:
        return TaskId(swarm_id(self._ports.entropy(SWARM_ID_BYTES)))

    def _renew_keys(self, state: ClusterState, now: Nanoseconds) -> Decision:
        return keys.reconcile(state, now, self._ports.entropy)

    def _finish_rotation(self, state: ClusterState, now: Nanoseconds) -> Decision:
        found = rotation.reconcile(state, now, self._ports.entropy)
        return msgspec.structs.replace(found, changes=tuple(self._vault.sealed(found.changes)))

    def _seal(self, state: ClusterState, now: Nanoseconds) -> Decision:
        """Seals secrets of the cluster that an earlier version has stored in clear, or a manager
        that did not have the key yet."""
        cluster = state.cluster
        if cluster is None or not stored_secrets.has_clear(cluster):
            return Decision()
        [change] = self._vault.sealed([Put(cluster)])
        if change == Put(cluster):
            return Decision(wake_at=now + SEALING_RETRY)
        log.info("cluster.sealed")
        return Decision((change,))
