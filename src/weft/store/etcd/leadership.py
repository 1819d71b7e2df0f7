"""Tells which managers are present and which one leads: keys under leases, watched by all managers.

    managers/<node>   the id of the manager's etcd member, 0 without a member; exists while the
                      manager's lease lives
    leader            a node id; the first manager to create this key leads, while its lease lives

A manager renews its lease four times per lease time. A leader that could not renew its lease for a
whole lease time stops leading by itself, before etcd gives the key to another manager. When etcd
elects a new leader of its own, etcd prolongs every lease, so the loss of a host with both leaders
would take twice the time. Hence a second rule: if the etcd leader was the member of the leading
manager, and another member leads etcd now, the key is taken over at once. If that manager still
lives, two managers lead for a moment, which the store allows for."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import aclosing, suppress
from math import ceil
from typing import Any

from weft.errors import NotFound, WeftError
from weft.model.ids import NodeId
from weft.model.leadership_status import LeadershipStatus
from weft.store.etcd.base import Changed, Compare, Delete, KeyValue, Kv, Write, after
from weft.store.etcd.rows import PREFIX, Keys

log = logging.getLogger(__name__)

# All in proportion to the election timeout (`base.Pace`).
LEASE = 2
"""Seconds; with an election timeout of one second, etcd grants no shorter lease."""
BEAT = 0.5
_ANSWER = 1.0
_PAUSE = 0.3
"""Seconds between attempts after a failure."""
STAY_OUT = 5.0
"""Seconds for which a manager that resigned does not stand for leader again."""


class EtcdLeadership:
    """`store.base.Leadership`. Create it inside the running event loop; the caller owns `kv`."""

    def __init__(
        self, kv: Kv, node: NodeId, prefix: str = PREFIX, *, beside_member: bool = True
    ) -> None:
        """`beside_member`: `kv` is the etcd member on this manager's host."""
        self._kv, self._node, self._keys, self._beside_member = (
            kv,
            node,
            Keys(prefix),
            beside_member,
        )
        self._of = kv.pace.of
        self._leader: KeyValue | None = None
        self._present: dict[str, str] = {}
        self._lease = 0
        self._held = 0
        """The revision at which this process wrote the leader key."""
        self._raft_leader = 0
        """The etcd member that leads etcd."""
        self._suspect = 0
        """The revision of a leader key whose holder's member has led etcd and does not any more."""
        self._is_alive, self._out_until = False, 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._leadership_status = LeadershipStatus()
        self._changed, self._nudge = asyncio.Event(), asyncio.Event()
        self._tasks = [self._spawn(self._keep()), self._spawn(self._follow())]

    @property
    def leadership_status(self) -> LeadershipStatus:
        return self._leadership_status

    async def next(self, seen: LeadershipStatus) -> LeadershipStatus:
        while self._leadership_status == seen:
            await self._changed.wait()
        return self._leadership_status

    async def resign(self) -> None:
        """Raises nothing: a key that cannot be deleted now ends with the lease."""
        self._out_until = self._now() + self._of(STAY_OUT)
        if self._leads_here():
            with suppress(WeftError, TimeoutError):
                async with asyncio.timeout(self._of(_ANSWER)):
                    await self._kv.txn(
                        [Compare(self._keys.leader, self._held)], [Delete(self._keys.leader)]
                    )

    async def close(self) -> None:
        """Revokes the lease, so that nobody waits for it to end."""
        for task in self._tasks:
            task.cancel()
        if self._deadline is not None:
            self._deadline.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._lease:
            with suppress(WeftError, TimeoutError):
                async with asyncio.timeout(self._of(_ANSWER)):
                    await self._kv.revoke(self._lease)

    # --- presence

    async def _keep(self) -> None:
        while True:
            try:
                await self._register()
                while True:
                    await self._beat()
            except NotFound:
                log.warning("leadership.lease.lost node=%s", self._node)
                self._lease = 0
            except (WeftError, TimeoutError) as error:
                log.debug("leadership.unreachable cause=%s", error)
            self._publish()
            await asyncio.sleep(self._of(_PAUSE))

    async def _register(self) -> None:
        """Registers this manager, under its present lease if there is one, else under a new one."""
        if not self._lease:
            async with asyncio.timeout(self._of(_ANSWER)):
                lease = await self._kv.grant(ceil(self._of(LEASE)))
                member = (await self._kv.status()).member if self._beside_member else 0
                await self._kv.txn(
                    [], [Write(f"{self._keys.managers}{self._node}", b"%d" % member, lease)]
                )
                self._lease = lease
        await self._live_on()

    async def _beat(self) -> None:
        await self._campaign()
        self._publish()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._of(BEAT)):
                await self._nudge.wait()
        self._nudge.clear()
        await self._live_on()

    async def _live_on(self) -> None:
        async with asyncio.timeout(self._of(_ANSWER)):
            begun = self._now()
            await self._kv.keep_alive(self._lease)
            self._is_alive = True
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = asyncio.get_running_loop().call_at(
                begun + self._of(LEASE), self._expire
            )
            leader = (await self._kv.status()).leader if self._beside_member else 0
        if leader not in (0, self._raft_leader):
            if self._leader is not None and self._present.get(self._leader.value.decode()) == str(
                self._raft_leader
            ):
                self._suspect = self._leader.mod_revision
            self._raft_leader = leader

    def _expire(self) -> None:
        """The lease may have ended, by this clock, which began to count before etcd did."""
        self._is_alive = False
        self._publish()

    async def _campaign(self) -> None:
        """Takes the leader key if no manager holds it rightfully."""
        if self._now() < self._out_until or not self._vacant():
            return
        seen = self._leader.mod_revision if self._leader else 0
        async with asyncio.timeout(self._of(_ANSWER)):
            own = Write(self._keys.leader, self._node.encode(), self._lease)
            answer = await self._kv.txn([Compare(self._keys.leader, seen)], [own])
        if answer.succeeded:
            self._held = answer.revision
            self._leader = KeyValue(
                self._keys.leader, self._node.encode(), answer.revision, answer.revision
            )
            log.info("leadership.taken node=%s", self._node)

    def _vacant(self) -> bool:
        if self._leader is None:
            return True
        leader = self._leader.value.decode()
        if leader == self._node:
            # An earlier process of this manager, whose lease still lives.
            return not self._leads_here()
        return self._leader.mod_revision == self._suspect

    def _leads_here(self) -> bool:
        return self._leader is not None and self._leader.mod_revision == self._held

    # --- the other managers

    async def _follow(self) -> None:
        while True:
            with suppress(WeftError):
                await self._follow_once()
            await asyncio.sleep(self._of(_PAUSE))

    async def _follow_once(self) -> None:
        """Runs until the watch breaks. Keys before `leader` and after `managers/` belong to other
        modules."""
        first, end = self._keys.leader, after(self._keys.managers)
        found = await self._kv.range(first, end, serializable=True)
        self._leader, self._present = None, {}
        for pair in found.pairs:
            self._take(Changed(pair.key, pair.value, pair.create_revision, pair.mod_revision))
        self._publish()
        async with aclosing(self._kv.watch(first, end, found.revision + 1)) as batches:
            async for batch in batches:
                for change in batch.changes:
                    self._take(change)
                self._publish()

    def _take(self, change: Changed) -> None:
        if change.key == self._keys.leader:
            if change.value is None:
                self._leader = None
                self._nudge.set()
            elif self._leader is None or change.mod_revision > self._leader.mod_revision:
                self._leader = KeyValue(
                    change.key, change.value, change.create_revision, change.mod_revision
                )
        elif change.key.startswith(self._keys.managers):
            node = change.key.removeprefix(self._keys.managers)
            if change.value is None:
                self._present.pop(node, None)
            else:
                self._present[node] = change.value.decode()

    def _publish(self) -> None:
        leadership_status = LeadershipStatus(None, frozenset((self._node,)))
        if self._is_alive:
            leader = NodeId(self._leader.value.decode()) if self._leader else None
            if leader == self._node and not self._leads_here():
                leader = None
            leadership_status = LeadershipStatus(
                leader, frozenset(NodeId(node) for node in self._present)
            )
        if leadership_status != self._leadership_status:
            log.info(
                "leadership.changed leader=%s present=%s",
                leadership_status.leader,
                ",".join(sorted(leadership_status.present)),
            )
            self._leadership_status = leadership_status
            self._changed.set()
            self._changed = asyncio.Event()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(work)
