"""A manager that runs on this node, one kind for each place where the swarm's state may be.

    AloneManager      in the embedded store; this manager leads
    SharedManager     in a store that all managers share, with this host's etcd member
                      (`store_part.py`); one of the managers leads
    ExternalManager   in an external etcd; managers have no etcd members

`opening.py` opens them. The manager owns the resources that it was opened with; the etcd process
goes on when the manager is closed."""

import asyncio
import logging
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import ClassVar

from weft.control import revocation
from weft.daemon.role_steps import StoreKind
from weft.daemon.store_part import restart_in_turn
from weft.errors import WeftError
from weft.manager.manager import Manager
from weft.model.ids import NodeId
from weft.model.state import Kind, cluster_of
from weft.store.base import Store
from weft.store.etcd.base import Kv
from weft.store.etcd.process import EtcdMember
from weft.system.supervision import ended
from weft.system.waiting import first

log = logging.getLogger(__name__)


class RunningManager(ABC):
    kind: ClassVar[StoreKind]
    """Where the state is."""

    def __init__(self, manager: Manager, store: Store, closing: AsyncExitStack) -> None:
        """`closing`: closes everything that was opened for this manager."""
        self.manager = manager
        self.store = store
        self._closing = closing

    def beside(self, task: asyncio.Task[None]) -> None:
        """The task ends with this manager."""
        self._closing.push_async_callback(ended, task)

    async def close(self) -> None:
        """Closes the manager. The state stays, and can still be read through `manager`."""
        await self._closing.aclose()

    async def resign(self, peer_url: str) -> bool:
        """Leaves the state to the other managers, if they can go on without this one. `peer_url`:
        of this host's etcd member. Returns True if there are none, and the store is to be
        erased."""
        try:
            return await self._resign(peer_url)
        except WeftError as cause:
            log.warning("manager.not_resigned cause=%s", cause)
            return False

    @abstractmethod
    async def _resign(self, peer_url: str) -> bool: ...

    @abstractmethod
    async def take_root(self, own: NodeId) -> None:
        """Makes what runs beside the manager trust a new root. `own`: this node."""

    @property
    def lost_its_part(self) -> bool:
        """Whether the other managers have removed this host's etcd member, or the swarm goes on
        without this manager."""
        return False

    @property
    def later_epoch(self) -> int | None:
        """Epoch of the cluster begun anew without this manager, or None."""
        return None

    @property
    def has_company(self) -> bool:
        """Whether another node is to be a manager."""
        return sum(node.spec.role == "manager" for node in self.store.state.nodes.values()) > 1

    @abstractmethod
    async def changed(self) -> None:
        """Waits until the node's role may need another step (`role_steps.py`). If the manager ended
        unexpectedly, raises the error that ended it."""


class AloneManager(RunningManager):
    kind = "alone"

    async def _resign(self, peer_url: str) -> bool:
        return False

    async def take_root(self, own: NodeId) -> None:
        """Nothing that trusts a root runs beside this manager."""

    async def changed(self) -> None:
        await first(self.manager.failed(), self._company())

    async def _company(self) -> None:
        """Waits until another node is to be a manager."""
        kinds: tuple[Kind, ...] = ("node",)
        changes = self.store.subscribe(kinds)
        try:
            while not self.has_company:
                await changes.next()
        finally:
            changes.close()


class SharedManager(RunningManager):
    kind = "shared"

    def __init__(
        self,
        manager: Manager,
        store: Store,
        closing: AsyncExitStack,
        etcd: EtcdMember,
        kv: Kv,
        asking: asyncio.Task[int],
    ) -> None:
        """`asking`: see `later_epoch.py`."""
        super().__init__(manager, store, closing)
        self.etcd = etcd
        self._kv = kv
        self._asking = asking

    async def _resign(self, peer_url: str) -> bool:
        """Removes this host's etcd member. If it stayed, the others would wait for it for ever."""
        try:
            await self.manager.disown()
        except WeftError as cause:
            # The others revoke the certificates when they demote this manager.
            log.warning("manager.not_disowned cause=%s", cause)
        for member in await self._kv.members():
            if peer_url in member.peer_urls:
                await self._kv.remove_member(member.id)
        return False

    async def take_root(self, own: NodeId) -> None:
        """Restarts etcd, as the etcd process reads its trusted root only at start. Managers learn
        of the root at the same time and restart one after the other, so that there is always a
        quorum. Until then the old root vouches for the new one."""
        await restart_in_turn(self.etcd, self.store.state, own, "new root certificate")

    @property
    def lost_its_part(self) -> bool:
        return self.etcd.removed.is_set() or self.later_epoch is not None

    @property
    def later_epoch(self) -> int | None:
        return self._asking.result() if self._asking.done() else None

    async def changed(self) -> None:
        await first(self.manager.failed(), self.etcd.removed.wait(), asyncio.wait((self._asking,)))


class ExternalManager(RunningManager):
    kind = "external"

    async def _resign(self, peer_url: str) -> bool:
        return await self.manager.resign()

    async def take_root(self, own: NodeId) -> None:
        """Nothing that trusts a root runs beside this manager."""

    async def changed(self) -> None:
        await self.manager.failed()


def is_revoked(store: Store, serial: str) -> bool:
    """Whether a certificate was revoked, as far as the managers with this store know."""
    return revocation.is_revoked(cluster_of(store.state), serial)
