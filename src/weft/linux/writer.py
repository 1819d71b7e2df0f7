"""Applies operations: in order within each namespace, batched into one send as long as the kind of
work stays the same.

Operations wait in a queue per namespace, its line. A line is carried out when work of another kind
follows (netlink, sysctls, tables, the namespace itself), when it is long, when a link is to be made
between it and another namespace, or at the end. So a hundred sandboxes cost a few sends each, and
ten thousand peers some hundred sends. Every operation is tried. The failures are gathered, and the
first in order is reported.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from weft.errors import OperationFailed, cause_of
from weft.linux import netns, sysctl, tap
from weft.linux.encode import ALREADY_SO, ENCODERS, Lookup
from weft.linux.handles import Handle, Handles
from weft.linux.netlink import link
from weft.linux.netlink.message import NetlinkError, Request
from weft.linux.tables import Tables, Transaction
from weft.network.kernel_state import HOST, Link, Tap, Veth, Vxlan
from weft.network.operations import (
    AddLink,
    AddNamespace,
    ChangeTable,
    Operation,
    RemoveLink,
    RemoveNamespace,
    RemoveTable,
    ReplaceTable,
    SetSysctl,
)
from weft.network.render.changes import SetTurn

_LONGEST = 256
"""Operations carried out without yielding to the event loop: some milliseconds."""
_MOST_NAMESPACES = 16
"""Namespaces changed without yielding to it: about a millisecond, for a few elements of a table in
each."""


class Numbered(NamedTuple):
    position: int
    """Index in the sequence of operations."""
    operation: Operation


Line = list[Numbered]


class Writer:
    """Applies one sequence of operations; not to be used again."""

    def __init__(self, handles: Handles, tables: Tables) -> None:
        self._handles = handles
        self._tables = tables
        self._lines: dict[str, tuple[type, Line]] = {}
        self._makers: dict[str, set[str]] = {}
        """For each namespace, those in whose line a link waits that has its other end in it."""
        self._indexes: dict[str, dict[str, int]] = {}
        self._failures: dict[int, str] = {}
        self._transactions: dict[tuple[str, str, int, int], Transaction] = {}
        """Encoded changes by what they change; the last number is the id of the changes, which live
        as long as the writer."""
        self._carry_out: Mapping[type, Callable[[str, Line], Awaitable[None]]] = {
            AddNamespace: self._namespaces,
            RemoveNamespace: self._namespaces,
            SetSysctl: self._sysctls,
            ReplaceTable: self._replace_tables,
            ChangeTable: self._change_tables,
            RemoveTable: self._replace_tables,
        }

    async def apply(self, operations: Sequence[Operation]) -> None:
        """Raises OperationFailed, which names the first operation that failed; its notes name the
        others."""
        for position, operation in enumerate(operations):
            await self._enqueue(Numbered(position, operation))
        for number, name in enumerate(list(self._lines), 1):
            await self._flush(name)
            if number % _MOST_NAMESPACES == 0:
                await asyncio.sleep(0)
        if self._failures:
            first, *others = sorted(self._failures)
            error = OperationFailed(
                f"cannot apply {_title(operations[first])}: {self._failures[first]}"
            )
            for position in others:
                error.add_note(
                    f"cannot apply {_title(operations[position])}: {self._failures[position]}"
                )
            raise error

    # --- lines

    async def _enqueue(self, item: Numbered) -> None:
        operation = item.operation
        name = operation.namespace
        if isinstance(operation, AddLink) and isinstance(operation.link.kind, Tap):
            await self._flush(name)
            await self._make_tap(item.position, operation)
            return
        if isinstance(operation, AddLink):
            name = await self._prepare(operation)
        elif name in self._makers:
            await self._flush_makers(name)
        work = type(operation) if type(operation) not in ENCODERS else Link
        waiting = self._lines.get(name)
        if waiting is not None and (waiting[0] is not work or len(waiting[1]) >= _LONGEST):
            await self._flush(name)
            waiting = None
        if waiting is None:
            waiting = self._lines[name] = (work, [])
        waiting[1].append(item)

    async def _prepare(self, operation: AddLink) -> str:
        """Carries out what waits for the namespace of the link's other end; gives the namespace in
        which the link is made."""
        maker, other = operation.namespace, None
        if isinstance(operation.link.kind, Veth):
            other = operation.link.kind.peer_namespace
        elif isinstance(operation.link.kind, Vxlan):
            maker, other = operation.link.kind.socket, operation.namespace
        await self._flush_makers(maker)
        if other is not None and other != maker:
            await self._flush(other)
            self._makers.setdefault(other, set()).add(maker)
        if self._lines.get(maker, (Link,))[0] is not Link:
            await self._flush(maker)
        return maker

    async def _flush_makers(self, name: str) -> None:
        for maker in self._makers.pop(name, ()):
            await self._flush(maker)

    async def _flush(self, name: str) -> None:
        waiting = self._lines.pop(name, None)
        if waiting is not None:
            work, line = waiting
            await self._carry_out.get(work, self._netlink)(name, line)

    # --- kinds of work

    async def _namespaces(self, name: str, line: Line) -> None:
        for position, operation in line:
            try:
                if isinstance(operation, AddNamespace):
                    await self._handles.create(name)
                else:
                    await self._remove_namespace(name)
            except OSError as error:
                self._failures[position] = cause_of(error)
            except OperationFailed as error:
                self._failures[position] = str(error)

    async def _remove_namespace(self, name: str) -> None:
        """Removes a namespace, its VXLAN devices first. The kernel takes a namespace apart some
        time after its last user has gone, and frees the VNI only then; until then the network could
        not be made again."""
        handle = self._handles.get(name)
        if handle is not None:
            found = map(link.decode_link, handle.route.dump(*link.dump_links()))
            handle.route.execute(
                [link.remove_link(device.name) for device in found if device.kind == "vxlan"]
            )
            self._tables.forget(handle)
        await self._handles.remove(name)

    async def _sysctls(self, name: str, line: Line) -> None:
        def write() -> None:
            for position, operation in line:
                assert isinstance(operation, SetSysctl)
                try:
                    sysctl.write(operation.key, operation.value)
                except OSError as error:
                    if (
                        error.errno != errno.ENOENT
                        or sysctl.when_absent(operation.key) != operation.value
                    ):
                        self._failures[position] = cause_of(error)

        try:
            await netns.on_thread(netns.inside(self._handles[name].descriptor, write))
        except OperationFailed as error:
            self._fail_all(line, error)

    async def _make_tap(self, position: int, operation: AddLink) -> None:
        """Makes a TAP, the one kind of link that netlink cannot make."""
        wanted = operation.link
        try:
            handle = self._handles[operation.namespace]
            await netns.on_thread(netns.inside(handle.descriptor, lambda: tap.make(wanted.name)))
            settings = [
                link.set_link(wanted.name, wanted.mtu, wanted.mac),
                link.set_no_arp(wanted.name),
            ]
            for error in handle.route.execute(settings).values():
                raise error
        except (OSError, OperationFailed) as error:
            self._failures[position] = cause_of(error)
        self._indexes.pop(operation.namespace, None)

    async def _replace_tables(self, name: str, line: Line) -> None:
        for position, operation in line:
            try:
                if isinstance(operation, ReplaceTable):
                    await self._tables.replace(self._handles[name], operation.table)
                elif isinstance(operation, RemoveTable) and (handle := self._handles.get(name)):
                    await self._tables.remove(handle, operation.family, operation.name)
            except OperationFailed as error:
                self._failures[position] = str(error)

    async def _change_tables(self, name: str, line: Line) -> None:
        for position, operation in line:
            assert isinstance(operation, ChangeTable)
            try:
                handle = self._handles[name]
                if not await self._tables.change(
                    handle, operation.table, self._transaction(operation)
                ):
                    await self._tables.replace(handle, operation.table)
            except OperationFailed as error:
                self._failures[position] = str(error)

    def _transaction(self, operation: ChangeTable) -> Transaction:
        """The encoded changes of a table. Many tables are changed alike, so each encoding is made
        once. A chain's rule contains the table's `start`, so then `start` is part of the key."""
        table, changes = operation.table, operation.changes
        start = table.start if any(isinstance(change, SetTurn) for change in changes) else 0
        key = (table.family, table.name, start, id(changes))
        found = self._transactions.get(key)
        if found is None:
            found = self._transactions[key] = Transaction.of(operation)
        return found

    async def _netlink(self, name: str, line: Line) -> None:
        handle = self._handles.get(name)
        if handle is None:
            self._fail_all(
                [item for item in line if not _removes(item.operation)], self._missing(name)
            )
            return
        requests: list[Request] = []
        owners: list[Numbered] = []

        def send() -> None:
            self._send(handle, requests, owners)
            requests.clear()
            owners.clear()

        lookup = Lookup(self._index_lookup(handle, send), self._descriptor)
        for item in line:
            try:
                encoded = ENCODERS[type(item.operation)](item.operation, lookup)
            except (OSError, OperationFailed) as error:
                self._note(handle, item, error)
                continue
            requests += encoded
            owners += [item] * len(encoded)
        if any(isinstance(item.operation, RemoveLink) for item in owners):
            # The kernel waits for all processors with each link that it removes: 50 ms on a busy
            # host, which are not the event loop's.
            self._sent(
                handle, owners, await netns.on_thread(partial(handle.route.execute, requests))
            )
        else:
            send()
        if len(line) >= _LONGEST:
            await asyncio.sleep(0)

    # --- netlink

    def _send(
        self, handle: Handle, requests: Sequence[Request], owners: Sequence[Numbered]
    ) -> None:
        self._sent(handle, owners, handle.route.execute(requests) if requests else {})

    def _sent(
        self, handle: Handle, owners: Sequence[Numbered], errors: Mapping[int, NetlinkError]
    ) -> None:
        for at, error in errors.items():
            self._note(handle, owners[at], error)
        for at, (_, operation) in enumerate(owners):
            if isinstance(operation, AddLink | RemoveLink):
                self._indexes.pop(handle.name, None)
                self._indexes.pop(operation.namespace, None)
            if isinstance(operation, AddLink) and at not in errors:
                self._tell_tables(operation)

    def _index_lookup(self, handle: Handle, send: Callable[[], None]) -> Callable[[str], int]:
        def index(device: str) -> int:
            known = self._indexes.get(handle.name, {})
            if device not in known:
                send()
                known = self._indexes[handle.name] = _indexes(handle)
            if device not in known:
                raise NetlinkError(errno.ENODEV, f"no device {device}")
            return known[device]

        return index

    def _descriptor(self, name: str) -> int:
        return self._handles[name].descriptor

    def _tell_tables(self, operation: AddLink) -> None:
        kind = operation.link.kind
        for name in (operation.namespace, kind.peer_namespace if isinstance(kind, Veth) else None):
            if name is not None and (handle := self._handles.get(name)):
                self._tables.link_added(handle)

    def _note(self, handle: Handle, item: Numbered, error: OSError | OperationFailed) -> None:
        """Records a failure, unless the error means that the goal was reached already."""
        if isinstance(error, OSError):
            if error.errno in ALREADY_SO.get(type(item.operation), ()):
                return
            if (
                error.errno == errno.EEXIST
                and isinstance(item.operation, AddLink)
                and self._is_there(item.operation)
            ):
                return
        cause = cause_of(error)
        self._failures.setdefault(item.position, cause or str(error))

    def _is_there(self, operation: AddLink) -> bool:
        """Whether the link, and for a veth its other end, exists and is of that kind."""
        kind = operation.link.kind
        ends = [(operation.namespace, operation.link)]
        if (
            isinstance(kind, Veth)
            and kind.peer_namespace is not None
            and operation.peer is not None
        ):
            ends.append((kind.peer_namespace, operation.peer))
        return all(_has_link(self._handles[name], end) for name, end in ends)

    def _missing(self, name: str) -> OperationFailed:
        return OperationFailed(f"no network namespace {name} in {self._handles.directory}")

    def _fail_all(self, line: Line, error: Exception) -> None:
        for position, _ in line:
            self._failures[position] = str(error)


def _indexes(handle: Handle) -> dict[str, int]:
    found = map(link.decode_link, handle.route.dump(*link.dump_links()))
    return {device.name: device.device for device in found}


def _has_link(handle: Handle, wanted: Link) -> bool:
    try:
        found = link.decode_link(handle.route.ask(link.get_link(wanted.name)))
    except NetlinkError:
        return False
    if isinstance(wanted.kind, Vxlan):
        return found.vxlan == msgspec.structs.replace(wanted.kind, socket=HOST)
    return found.kind == type(wanted.kind).__name__.lower()


def _removes(operation: Operation) -> bool:
    return type(operation).__name__.startswith("Remove")


def _title(operation: Operation) -> str:
    """The operation's first line, without a table's rules."""
    if isinstance(operation, ReplaceTable | ChangeTable):
        return f"nft table {operation.table.family} {operation.table.name} in {operation.namespace}"
    return f"`{operation}`"
