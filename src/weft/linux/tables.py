"""Remembers the nftables tables that we applied, so that changes by others are noticed without
parsing rules.

After each transaction of ours the namespace's generation is kept. While the generation stays the
same, nobody has changed anything. When it has moved, each table is compared: its frame (its listing
without the elements of sets) with the frame after we wrote it, and its elements with those that it
should have. A table that an earlier process applied, or that somebody changed, reads as empty and
is written anew, which disturbs nothing.

Changes of elements are sent as the kernel's own messages, for the generation that we know. If
somebody else made a transaction first, or the table is not as expected, none of the changes is
made. Changes of elements leave the frame as it is; changes of chains do not. A table with changed
chains cannot be compared, and is written when the generation has moved without us.
"""

import asyncio
import errno
import hashlib
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NamedTuple, TypeVar

from weft.errors import OperationFailed
from weft.linux import netns
from weft.linux.handles import Handle, Handles
from weft.linux.netlink import nft_changes, nftables
from weft.linux.netlink.message import NetlinkError, encode_transaction
from weft.linux.netlink.nftables import TableName
from weft.linux.nft import Nft
from weft.network.kernel_state import HOST, Table
from weft.network.nft import Object, objects
from weft.network.operations import ChangeTable
from weft.network.ownership import owns_table
from weft.network.render.changes import AddElements, RemoveElements
from weft.network.render.table import elements
from weft.system import memory

T = TypeVar("T")

_LINGER = 0.1
"""Seconds that an nftables context stays open after its last use (see `weft.linux.nft` for why),
and how many stay open at most."""
_LINGERING = 8
_ATTEMPTS = 2


class _Applied(NamedTuple):
    table: Table
    frame: bytes | None
    """Digest of the table as nft lists it without elements; None if not known."""
    objects: frozenset[Object] | None
    """The table's objects; None if not known."""


class Transaction(NamedTuple):
    """Changes of a table as encoded messages."""

    body: bytes
    requests: int
    keeps_frame: bool
    """No change is about a chain."""

    @classmethod
    def of(cls, operation: ChangeTable) -> "Transaction":
        requests = nft_changes.requests(operation.table, operation.changes)
        keeps_frame = all(
            isinstance(change, AddElements | RemoveElements) for change in operation.changes
        )
        return cls(encode_transaction(requests), len(requests), keeps_frame)


class _Memory:
    """What we applied in one namespace."""

    def __init__(self, identity: int) -> None:
        self.identity = identity
        self.generation: int | None = None
        """The generation at which `applied` was known to be right."""
        self.applied: dict[TableName, _Applied] = {}
        self.changed: set[TableName] = set()
        """Tables that others have changed, as a comparison has shown."""
        self.written: dict[TableName, Table] = {}
        """Tables as we last wrote them, whatever has become of them."""


class Tables:
    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        self._memories: dict[str, _Memory] = {}
        self._lingering: dict[Handle, asyncio.TimerHandle] = {}
        """Handles with an open nftables context, the most recently used last."""

    async def read(self, handle: Handle) -> dict[tuple[str, str], Table]:
        """All our tables in the namespace."""
        memory = self._memory(handle)
        names = [
            nftables.decode_table(body) for body in handle.filter.dump(*nftables.dump_tables())
        ]
        if handle.name == HOST:
            names = [name for name in names if owns_table(name.name)]
        await self._catch_up(handle, memory, names)
        known = memory.applied
        return {
            (name.family, name.name): known[name].table
            if name in known
            else Table(*name, unknown=name not in memory.changed)
            for name in names
        }

    def written(self, handle: Handle, name: TableName) -> Table | None:
        """The table as this process last wrote it; None if it did not."""
        return self._memory(handle).written.get(name)

    async def frames(self, handle: Handle, names: Collection[TableName]) -> dict[TableName, str]:
        """Listings of tables, also of others' ones, without elements; none of one that is gone."""

        def listed(nft: Nft) -> dict[TableName, str]:
            found = {}
            for name in names:
                with suppress(OperationFailed):
                    found[name] = nft.frame(*name)
            return found

        return await self._run(handle, listed) if names else {}

    async def replace(self, handle: Handle, table: Table) -> None:
        """Writes a table whole. Raises OperationFailed with nft's message."""
        memory = self._memory(handle)
        before = handle.generation()
        name = TableName(table.family, table.name)
        former = memory.applied.pop(name, None)
        memory.changed.discard(name)
        frame = await self._run(
            handle, lambda nft: nft.replace(table, former.objects if former else None)
        )
        memory.applied[name] = _Applied(table, _digest(frame), objects(frame))
        memory.written[name] = table
        if not self._step(handle, memory, before):
            # Somebody else wrote rules at the same time, perhaps into this table before it was
            # listed.
            del memory.applied[name]

    async def change(self, handle: Handle, table: Table, transaction: Transaction) -> bool:
        """Changes a table to its desired content. False if it must be written whole."""
        memory = self._memory(handle)
        name = TableName(table.family, table.name)
        for _ in range(_ATTEMPTS):
            known = memory.applied.get(name)
            if known is None or memory.generation is None:
                return False
            if known.table == table:
                return True
            begin, end = nftables.begin(memory.generation), nftables.end()
            try:
                handle.filter.transact(begin, transaction.body, transaction.requests, end)
            except OSError as error:
                if error.errno != errno.ERESTART:
                    del memory.applied[name]
                    return False
                await self._catch_up(handle, memory, list(memory.applied))
                continue
            memory.generation = nftables.after(memory.generation)
            kept = transaction.keeps_frame
            memory.applied[name] = _Applied(
                table, known.frame if kept else None, known.objects if kept else None
            )
            memory.written[name] = table
            return True
        return False

    async def remove(self, handle: Handle, family: str, name: str) -> None:
        memory = self._memory(handle)
        before = handle.generation()
        memory.applied.pop(TableName(family, name), None)
        memory.written.pop(TableName(family, name), None)
        memory.changed.discard(TableName(family, name))
        await self._run(handle, lambda nft: nft.remove(family, name))
        self._step(handle, memory, before)

    def link_added(self, handle: Handle) -> None:
        """Forgets tables that are bound to devices, so that they are applied again for a new
        device: a chain vanishes with its device, without a notification."""
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
        """Whether our own transaction, one step, was the only one: then what was known before is
        still true."""
        if handle.generation() != before + 1:
            return False
        if memory.generation in (None, before):
            memory.generation = before + 1
        return True

    async def _catch_up(self, handle: Handle, memory: _Memory, names: list[TableName]) -> None:
        """If the generation has moved, forgets the tables that are no longer as we wrote them.
        `names`: the tables that exist."""
        generation = handle.generation()
        if generation == memory.generation:
            return
        comparable = {
            n: memory.applied[n]
            for n in names
            if n in memory.applied and memory.applied[n].frame is not None
        }

        def same(nft: Nft) -> dict[TableName, _Applied]:
            return {
                name: known
                for name, known in comparable.items()
                if _frame(nft, name) == known.frame and _holds(handle, known.table)
            }

        memory.applied = await self._run(handle, same) if comparable else {}
        memory.changed |= comparable.keys() - memory.applied.keys()
        memory.generation = generation

    async def _run(self, handle: Handle, use: Callable[[Nft], T]) -> T:
        timer = self._lingering.pop(handle, None)
        if timer is not None:
            timer.cancel()
        try:
            return await netns.on_thread(netns.inside(handle.descriptor, lambda: use(handle.nft)))
        finally:
            self._lingering[handle] = asyncio.get_running_loop().call_later(
                _LINGER, self._retire, handle
            )
            if len(self._lingering) > _LINGERING:
                self._retire(next(iter(self._lingering)))

    def _retire(self, handle: Handle) -> None:
        self._lingering.pop(handle).cancel()
        self._handles.retire_nft(handle)
        if not self._lingering:
            self._handles.in_background(memory.release)


def _frame(nft: Nft, name: TableName) -> bytes:
    """The digest of the table's frame; that of an empty text if the table was removed in the
    meantime."""
    try:
        return _digest(nft.frame(*name))
    except OperationFailed:
        return _digest("")


def _holds(handle: Handle, table: Table) -> bool:
    """Whether the table's sets have the elements that they should have."""
    try:
        for name, wanted in elements(table).items():
            type_ = table.sets[name].type
            there: dict[bytes, bytes] = {}
            for body in handle.filter.dump(*nft_changes.dump_elements(table, name)):
                there |= nft_changes.decode_elements(body)
            if there != dict(nft_changes.octets(type_, *item) for item in wanted.items()):
                return False
    except NetlinkError:
        return False
    return True


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
