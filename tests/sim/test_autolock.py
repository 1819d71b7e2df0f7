"""The unlock key: how it comes to every manager, and what a manager does that cannot read it. Each
manager has files of its own; the state is one for all."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from tests.sim.test_vault import Managers
from tests.support import virtual_time
from weft.errors import OperationFailed, Unavailable
from weft.manager.autolock import Autolock, NoFiles
from weft.model.cluster import Cluster
from weft.model.state import Put
from weft.pki import unlock_key
from weft.pki.sealing import SealingKey


class Disk(NoFiles):
    """Fails as often as `failures` says, and counts what it is told."""

    def __init__(self) -> None:
        self.failures = 0
        self.told = 0

    def hold(self, unlock: SealingKey | None) -> None:
        self.told += 1
        if self.failures:
            self.failures -= 1
            raise OperationFailed("the disk is full")
        super().hold(unlock)


class Locks:
    def __init__(self, managers: Managers) -> None:
        self.managers = managers
        self.disks: dict[str, Disk] = {}
        self.locks: dict[str, Autolock] = {}

    async def start(self, name: str, leads: bool = False) -> Autolock:
        vault = await self.managers.start(name, leads)
        self.disks[name] = Disk()
        lock = Autolock(self.managers.store, vault, self.disks[name], self.managers.entropy)
        self.locks[name] = lock
        self.managers.running.append(asyncio.create_task(lock.run()))
        return lock

    @property
    def cluster(self) -> Cluster:
        cluster = self.managers.store.state.cluster
        assert cluster is not None
        return cluster

    async def change(self, **fields: Any) -> None:
        await self.managers.store.commit([Put(msgspec.structs.replace(self.cluster, **fields))])
        await asyncio.sleep(3)

    async def held(self) -> set[str]:
        return {unlock_key.text(d.unlock) if d.unlock else "" for d in self.disks.values()}


def scene(play: Callable[[Locks], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            managers = Managers()
            await managers.begin()
            try:
                await play(Locks(managers))
            finally:
                await managers.close()

        virtual_time.run(main())

    run.__name__, run.__doc__ = play.__name__, play.__doc__
    return run


@scene
async def test_every_manager_holds_the_key_that_is_shown_and_the_state_does_not_show_it(
    locks: Locks,
) -> None:
    first = await locks.start("m1", leads=True)
    await locks.start("m2")
    assert await first.shown() == ""
    await first.begin()
    await asyncio.sleep(3)
    shown = await first.shown()
    await locks.start("m3")  # a new manager
    await asyncio.sleep(3)
    assert await locks.held() == {shown}
    assert {await lock.shown() for lock in locks.locks.values()} == {shown}
    secret = unlock_key.parse(shown).secret
    assert secret not in msgspec.msgpack.encode(locks.cluster.unlock_key)
    assert repr(secret)[2:-1] not in repr(locks.cluster)

    await locks.change(unlock_key=await locks.locks["m2"].new_key())
    assert await locks.held() == {await first.shown()} != {shown}

    await locks.change(unlock_key=None)
    assert await locks.held() == {""}
    assert await first.shown() == ""


@scene
async def test_a_disk_that_fails_is_written_later(locks: Locks) -> None:
    first = await locks.start("m1", leads=True)
    await asyncio.sleep(1)
    locks.disks["m1"].failures = 5
    await first.begin()
    await asyncio.sleep(3)
    assert await locks.held() == {""}
    await asyncio.sleep(10)
    assert await locks.held() == {await first.shown()}
    before = locks.disks["m1"].told
    await locks.change(next_port=31000)
    await asyncio.sleep(100)
    assert locks.disks["m1"].told == before


@scene
async def test_a_manager_without_a_majority_follows_nothing(locks: Locks) -> None:
    """What it knows may be out of date: its files would be locked under a former key."""
    first = await locks.start("m1", leads=True)
    await asyncio.sleep(1)
    store, synced = locks.managers.store, locks.managers.store.sync

    async def no_majority() -> None:
        raise Unavailable("no majority")

    await first.begin()
    store.sync = no_majority  # type: ignore[method-assign]
    await asyncio.sleep(5)
    assert await locks.held() == {""}
    store.sync = synced  # type: ignore[method-assign]
    await asyncio.sleep(2)
    assert await locks.held() == {await first.shown()}


@scene
async def test_a_key_that_was_changed_in_the_store_changes_no_file(locks: Locks) -> None:
    first = await locks.start("m1", leads=True)
    await first.begin()
    await asyncio.sleep(3)
    shown, sealed = await first.shown(), locks.cluster.unlock_key
    assert sealed is not None
    broken = msgspec.structs.replace(sealed, text=sealed.text[:-1] + b"?")
    await locks.change(unlock_key=broken)
    assert await locks.held() == {shown}
    with pytest.raises(OperationFailed, match=r"changed in the store.*--rotate"):
        await first.shown()
    await locks.change(unlock_key=await first.new_key())
    assert await locks.held() == {await first.shown()}


@scene
async def test_a_sealing_key_that_is_lost_is_not_replaced_while_it_seals_the_unlock_key(
    locks: Locks,
) -> None:
    first = await locks.start("m1", leads=True)
    await first.begin()
    for task in locks.managers.running:
        task.cancel()
    locks.managers.vaults.clear()
    again = await locks.start("m1", leads=True)
    await asyncio.sleep(100)
    assert locks.managers.vaults["m1"].keys == ()
    with pytest.raises(Unavailable, match="cannot show the unlock key: this manager does not have"):
        await again.shown()
    await locks.change(unlock_key=None)
    await asyncio.sleep(100)
    assert len(locks.managers.vaults["m1"].keys) == 1
    await again.begin()
    await asyncio.sleep(3)
    assert await locks.held() == {await again.shown()}
