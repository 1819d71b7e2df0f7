"""What a manager knew last, in a file: whole or not at all, and at a bounded cost."""

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from tests.support import virtual_time
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import ClusterId, NetworkId
from weft.model.network import Network, NetworkSpec
from weft.model.state import Object, Put
from weft.store.kept import LONGEST, PERIOD, SHARE, Keeper, Kept, KeptState
from weft.store.memory import MemoryStore
from weft.store.schema import CURRENT, Schema

SWARM = ClusterId("swarm")


def network(name: str) -> Network:
    return Network(id=NetworkId(f"id-{name}"), spec=NetworkSpec(name=name))


async def filled(*names: str) -> MemoryStore:
    store = MemoryStore(virtual_time.clock)
    tokens = JoinTokens(worker="", manager="")
    await store.commit([Put(Cluster(id=SWARM, root_ca=RootCa("", "secret"), join_tokens=tokens))])
    for name in names:
        await store.commit([Put(network(name))])
    return store


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    async def main() -> None:
        store, file = await filled("b", "a", "c"), KeptState(tmp_path / "kept")
        assert file.read(SWARM) is None
        file.write(store.state.revision, list(store.state.objects()))
        assert file.read(SWARM) == Kept(4, tuple(store.state.objects()))
        assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600
        assert file.read(ClusterId("another")) is None
        assert KeptState(tmp_path / "kept", Schema(CURRENT.version + 1, {})).read(SWARM) is None
        file.erase()
        file.erase()
        assert file.read(SWARM) is None

    virtual_time.run(main())


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "garbage": lambda content: random.Random(1).randbytes(len(content)),
    "one bit": lambda content: content[:-20] + bytes([content[-20] ^ 1]) + content[-19:],
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_was_damaged_is_not_shown(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store, file = await filled("a"), KeptState(tmp_path / "kept")
        file.write(store.state.revision, list(store.state.objects()))
        (tmp_path / "kept").write_bytes(DAMAGES[name]((tmp_path / "kept").read_bytes()))
        assert file.read(SWARM) is None
        assert "kept.unreadable" in caplog.text

    virtual_time.run(main())


class Disk(KeptState):
    """In place of a file and a thread: it takes time, and may be full."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.takes, self.is_full = 0.0, False

    def write(self, revision: int, objects: Sequence[Object]) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.written.append(revision)

    async def in_thread(
        self, write: Callable[..., None], revision: int, objects: Sequence[Object]
    ) -> None:
        await asyncio.sleep(self.takes)
        write(revision, objects)


def play(scene: Callable[[MemoryStore, Disk, Keeper], Awaitable[None]]) -> None:
    async def main() -> None:
        store, disk = await filled(), Disk()
        await scene(store, disk, Keeper(disk, store, disk.in_thread))

    virtual_time.run(main())


async def change(store: MemoryStore, seconds: int) -> None:
    """Once in each."""
    for number in range(seconds):
        await asyncio.sleep(1)
        await store.commit([Put(network(f"{store.state.revision}-{number}"))])


def test_it_is_written_when_something_has_changed_and_not_each_time() -> None:
    async def scene(store: MemoryStore, disk: Disk, keeper: Keeper) -> None:
        await change(store, int(3 * PERIOD))
        assert 3 <= len(disk.written) <= 4
        await asyncio.sleep(2 * PERIOD)
        quiet = list(disk.written)
        assert quiet[-1] == store.state.revision
        await asyncio.sleep(10 * PERIOD)
        assert disk.written == quiet
        await store.commit([Put(network("last"))])
        await keeper.close()
        assert disk.written == [*quiet, store.state.revision], (
            "what changed since is there at the end"
        )

    play(scene)


def test_a_large_state_is_written_less_often() -> None:
    async def scene(store: MemoryStore, disk: Disk, keeper: Keeper) -> None:
        disk.takes = 0.3
        await change(store, int(10 * SHARE * disk.takes))
        assert SHARE * disk.takes > PERIOD
        assert 8 <= len(disk.written) <= 11
        await keeper.close()

    play(scene)


def test_what_is_kept_does_not_grow_old_on_a_slow_disk() -> None:
    async def scene(store: MemoryStore, disk: Disk, keeper: Keeper) -> None:
        disk.takes = 2.0
        await change(store, int(10 * (LONGEST + disk.takes)))
        assert 9 <= len(disk.written) <= 11
        await keeper.close()

    play(scene)


def test_one_that_is_closed_while_it_writes_writes_once_more() -> None:
    async def scene(store: MemoryStore, disk: Disk, keeper: Keeper) -> None:
        disk.takes = 2.0
        await asyncio.sleep(1)
        await store.commit([Put(network("late"))])
        await keeper.close()
        assert disk.written == [store.state.revision - 1, store.state.revision]

    play(scene)


def test_a_full_disk_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(store: MemoryStore, disk: Disk, keeper: Keeper) -> None:
        disk.is_full = True
        await asyncio.sleep(PERIOD / 2)
        assert "kept.not_written cause=No space left on device" in caplog.text
        disk.is_full = False
        await asyncio.sleep(PERIOD)
        assert disk.written == [store.state.revision]
        await keeper.close()

    play(scene)
