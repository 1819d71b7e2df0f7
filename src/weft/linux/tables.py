"""What we remember of the nftables tables that we applied, so that a change by somebody else is seen without parsing rules.

After each transaction of ours the namespace's generation and the table's listing are kept. While the generation stays, nobody
touched anything; once it moved, the table is listed again and compared. A table that was applied by an earlier process, or that
somebody changed, reads as having an empty body: it is written anew, which disturbs nothing.
"""

import asyncio
import hashlib
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from weft.errors import OperationFailed
from weft.linux import netns
from weft.linux.handles import Handle, Handles
from weft.linux.netlink import nftables
from weft.linux.netlink.nftables import TableName
from weft.linux.nft import Nft, release_memory
from weft.network.kernel_state import HOST, Table
from weft.network.nft import Object, objects
from weft.network.ownership import owns_table

T = TypeVar("T")

_LINGER = 0.1
"""Seconds that an nftables context stays open after its last use, and how many at most (see `weft.linux.nft` for why)."""
_LINGERING = 8


class _Applied(NamedTuple):
    body: str
    listing: bytes
    """Digest of the table as nft lists it."""
    objects: frozenset[Object]


class _Memory:
    """Of one namespace."""

    def __init__(self, identity: int) -> None:
        self.identity = identity
        self.generation: int | None = None
        """The generation at which all of `applied` was known to be as it says."""
        self.applied: dict[TableName, _Applied] = {}


class Tables:
    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        self._memories: dict[str, _Memory] = {}
        self._lingering: dict[Handle, asyncio.TimerHandle] = {}
        """Handles with an open nftables context, the one used last at the end."""

    async def read(self, handle: Handle) -> dict[tuple[str, str], Table]:
        """All tables of ours in the namespace."""
        memory = self._memory(handle)
        generation = handle.generation()
        names = [nftables.decode_table(body) for body in handle.filter.dump(*nftables.dump_tables())]
        if handle.name == HOST:
            names = [name for name in names if owns_table(name.name)]
        if generation != memory.generation:
            await self._verify(handle, memory, names)
            memory.generation = generation
        known = {name: memory.applied[name].body if name in memory.applied else "" for name in names}
        return {(name.family, name.name): Table(name.family, name.name, body) for name, body in known.items()}

    async def replace(self, handle: Handle, table: Table) -> None:
        """Raises OperationFailed with nft's message."""
        memory = self._memory(handle)
        before = handle.generation()
        name = TableName(table.family, table.name)
        former = memory.applied.pop(name, None)
        listing = await self._run(handle, lambda nft: nft.replace(table, former.objects if former else None))
        memory.applied[name] = _Applied(table.body, _digest(listing), objects(listing))
        if not self._step(handle, memory, before):
            # Somebody wrote rules at the same time, perhaps into this table before it was listed.
            del memory.applied[name]

    async def remove(self, handle: Handle, family: str, name: str) -> None:
        memory = self._memory(handle)
        before = handle.generation()
        memory.applied.pop(TableName(family, name), None)
        await self._run(handle, lambda nft: nft.remove(family, name))
        self._step(handle, memory, before)

    def link_added(self, handle: Handle) -> None:
        """A chain bound to a device goes away with the device, and nobody is told: apply such tables again for a new device."""
        memory = self._memory(handle)
        for name in [n for n in memory.applied if n.family == "netdev"]:
            del memory.applied[name]

    def forget(self, handle: Handle) -> None:
        self._memories.pop(handle.name, None)

    def close(self) -> None:
        for handle in tuple(self._lingering):
            self._retire(handle)

    def _memory(self, handle: Handle) -> _Memory:
        memory = self._memories.get(handle.name)
        if memory is None or memory.identity != handle.identity:
            memory = self._memories[handle.name] = _Memory(handle.identity)
        return memory

    def _step(self, handle: Handle, memory: _Memory, before: int) -> bool:
        """Whether our own transaction, one step, was all that happened: then what was known before is still known."""
        if handle.generation() != before + 1:
            return False
        if memory.generation in (None, before):
            memory.generation = before + 1
        return True

    async def _verify(self, handle: Handle, memory: _Memory, names: list[TableName]) -> None:
        """Forget the tables that are no longer what we made of them."""
        remembered = [name for name in names if name in memory.applied]

        def listings(nft: Nft) -> dict[TableName, bytes]:
            return {name: _listing(nft, name) for name in remembered}

        found = await self._run(handle, listings) if remembered else {}
        memory.applied = {n: applied for n, applied in memory.applied.items() if found.get(n) == applied.listing}

    async def _run(self, handle: Handle, use: Callable[[Nft], T]) -> T:
        timer = self._lingering.pop(handle, None)
        if timer is not None:
            timer.cancel()
        try:
            return await netns.on_thread(netns.inside(handle.descriptor, lambda: use(handle.nft)))
        finally:
            self._lingering[handle] = asyncio.get_running_loop().call_later(_LINGER, self._retire, handle)
            if len(self._lingering) > _LINGERING:
                self._retire(next(iter(self._lingering)))

    def _retire(self, handle: Handle) -> None:
        self._lingering.pop(handle).cancel()
        self._handles.retire_nft(handle)
        if not self._lingering:
            self._handles.in_background(release_memory)


def _listing(nft: Nft, name: TableName) -> bytes:
    """The digest of nothing if it was removed in the meantime."""
    try:
        return _digest(nft.listing(*name))
    except OperationFailed:
        return _digest("")


def _digest(listing: str) -> bytes:
    return hashlib.blake2b(listing.encode(), digest_size=16).digest()
