"""The steps of a node's role (`role_steps.py`) on a real host: opening the manager, moving its
store, leaving it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from weft.daemon import opening, store_part
from weft.daemon.manager_host import ManagerHost
from weft.daemon.role_steps import RoleFacts, Step, StoreKind
from weft.daemon.running_manager import RunningManager
from weft.errors import FailedPrecondition
from weft.session.client import MemberClient
from weft.session.deadlines import Deadlines
from weft.store.base import Store

log = logging.getLogger(__name__)


class Memory(Protocol):
    """The node's records on its disk."""

    def keep_store(self, store: StoreKind) -> None:
        """Raises `OperationFailed`."""
        ...

    def know_epoch(self, epoch: int) -> None: ...

    def other_managers(self) -> list[str]:
        """`host:port` of each other manager."""
        ...


class HostParts:
    """`membership.ManagerParts`. `running`: the manager of this host, if there is one."""

    def __init__(
        self, host: ManagerHost, memory: Memory, opened: Callable[[RunningManager], None]
    ) -> None:
        """`opened`: called with each manager that begins to run."""
        self.running: RunningManager | None = None
        self._host = host
        self._memory = memory
        self._opened = opened
        self._runs = asyncio.Event()

    @property
    def facts(self) -> RoleFacts:
        member, running = self._host.member(), self.running
        return RoleFacts(
            role=member.role,
            store=member.store,
            external=self._host.external_etcd is not None,
            running=running.kind if running is not None else "none",
            removed=running is not None and running.lost_its_part,
            others_wanted=running is not None and running.has_company,
            leftovers=self._host.has_part or self._host.kept.exists,
        )

    async def runs(self) -> None:
        """Waits until a manager runs."""
        await self._runs.wait()

    @property
    def is_running(self) -> bool:
        return self._runs.is_set()

    async def take(self, step: Step) -> None:
        host = self._host
        match step:
            case Step.OPEN_ALONE:
                self.begin(await opening.open_alone(host))
            case Step.OPEN_SHARED:
                self.begin(await opening.open_shared(host))
            case Step.OPEN_EXTERNAL:
                assert host.external_etcd is not None
                manager = await opening.open_external(host, host.external_etcd)
                self._memory.keep_store("external")
                self.begin(manager)
            case Step.JOIN:
                await store_part.join_store(
                    host,
                    MemberClient(
                        host.credential_source,
                        self._memory.other_managers,
                        host.is_revoked,
                        Deadlines(host.pace.election),
                    ),
                )
                self._memory.keep_store("shared")
            case Step.MOVE:
                await self._move()
            case Step.LEAVE:
                await self._leave()

    async def found(self, store: Store) -> None:
        """Opens the swarm's first manager, with the store that it has created. The store is closed
        if this raises."""
        self.begin(await opening.found(self._host, store))

    async def go_on_alone(self) -> None:
        """Makes this manager the only one, with the state that its store has. Raises
        `FailedPrecondition` if this node has no part of the swarm's state."""
        store = self._host.member().store
        if self.running is not None and store in ("alone", "external"):
            await self.running.manager.go_on_alone()
        elif self._host.member().role != "manager" or store != "shared":
            raise FailedPrecondition(
                "cannot force a new cluster: this node has no part of the swarm's state"
            )
        else:
            await self.stop()
            self.begin(await opening.open_shared(self._host, alone_from_now_on=True))
        assert self.running is not None
        self._memory.know_epoch(self.running.manager.epoch)

    async def changed(self) -> None:
        """See `membership.ManagerParts`."""
        running = self.running
        if running is None:
            await asyncio.get_running_loop().create_future()
        else:
            await running.changed()

    def begin(self, running: RunningManager) -> None:
        self.running = running
        self._runs.set()
        self._opened(running)
        log.info("manager.opened store=%s", running.kind)

    async def stop(self) -> None:
        """Closes the manager; the state stays where it is."""
        running, self.running = self.running, None
        self._runs.clear()
        if running is not None:
            await running.close()

    async def _move(self) -> None:
        """Moves from the manager's own store to one that can be shared. The old store holds until
        the copy is complete."""
        running = self.running
        assert running is not None
        self._host.etcd()  # raises before any change if etcd is not installed
        try:
            await opening.move_store(self._host, running)
            self._memory.keep_store("shared")
            store_part.forget_database(self._host)
        finally:
            await self.stop()

    async def _leave(self) -> None:
        """Writes the member's record first, since etcd data that is left over does no harm."""
        if self.running is not None and self.running.later_epoch is not None:
            self._memory.know_epoch(self.running.later_epoch)
        await self.stop()
        if self._host.member().store != "none":
            self._memory.keep_store("none")
        self._host.kept.erase()
        self._host.sealing_keys.erase()
        self._host.files.hold(None)  # a worker is never locked
        if self._host.has_part:
            await store_part.leave_store(self._host)
