"""The steps of a simulated host's role (`weft.daemon.membership.ManagerParts`): real managers on a
fake store process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from weft.daemon.role_steps import RoleFacts, Step, StoreKind
from weft.errors import OperationFailed, WeftError
from weft.manager.manager import Manager
from weft.model.ids import NodeId
from weft.model.node import Role
from weft.store.base import Leadership, Store
from weft.store.etcd.base import Kv
from weft.system.waiting import first

RETRY = 1.0
LOOK = 0.2
"""Seconds from one look at the store's process to the next."""


class Part(Protocol):
    """What a manager's daemon opens: its store, whom that says leads, and what is behind it."""

    kind: StoreKind

    async def open(self, host: str, node: NodeId) -> tuple[Store, Leadership, Kv | None]: ...

    def begin(self, host: str, peer_url: str) -> None:
        """Starts the host's part of a store that several share."""
        ...

    def has(self, host: str) -> bool:
        """Whether this host has its part of it."""
        ...


class Daemon(Protocol):
    """The host around it; `store` is on its disk."""

    name: str
    store: StoreKind
    manager: Manager | None

    @property
    def listens_at(self) -> str: ...

    @property
    def role(self) -> Role: ...

    def make_manager(self, store: Store, leadership: Leadership, kv: Kv | None) -> Manager: ...

    async def become_member(self) -> None:
        """Is given a part of the managers' store."""
        ...


class SimParts:
    def __init__(
        self,
        host: Daemon,
        node: NodeId,
        part: Part,
        run: Callable[[Awaitable[None]], asyncio.Task[None]],
    ) -> None:
        """`run` makes a task of the host's process."""
        self._host, self._node, self._part, self._run = host, node, part, run
        self._stores: tuple[Store, Leadership] | None = None
        self._arriving: asyncio.Task[None] | None = None

    @property
    def facts(self) -> RoleFacts:
        running = self._host.manager is not None
        return RoleFacts(
            role=self._host.role,
            store=self._host.store,
            running=self._part.kind if running else "none",
            removed=running and not self._part.has(self._host.name),
        )

    async def take(self, step: Step) -> None:
        match step:
            case Step.OPEN_ALONE | Step.OPEN_SHARED:
                await self._open()
            case Step.JOIN:
                await self._host.become_member()
                self._host.store = "shared"
            case Step.LEAVE:
                await self._close()
                self._host.store = "none"
            case _:
                raise OperationFailed(f"nothing here can {step.value}")

    async def changed(self) -> None:
        manager = self._host.manager
        if manager is None:
            await asyncio.get_running_loop().create_future()
            return
        await first(manager.failed(), self._removed())

    async def _removed(self) -> None:
        while self._part.has(self._host.name):
            await asyncio.sleep(LOOK)

    async def _open(self) -> None:
        store, leadership, kv = await self._part.open(self._host.name, self._node)
        manager = self._host.make_manager(store, leadership, kv)
        await manager.start()
        self._host.manager, self._stores = manager, (store, leadership)
        self._arriving = self._run(self._arrive(manager))

    async def _arrive(self, manager: Manager) -> None:
        while True:
            try:
                return await manager.arrive(self._host.listens_at)
            except WeftError:
                await asyncio.sleep(RETRY)

    async def _close(self) -> None:
        manager, self._host.manager = self._host.manager, None
        if self._arriving is not None:
            self._arriving.cancel()
        if manager is not None:
            await manager.close()
        if self._stores is not None:
            store, leadership = self._stores
            self._stores = None
            await leadership.close()
            await store.close()
