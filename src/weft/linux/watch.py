"""Notices changes: sorts the kernel's notifications for every namespace into those that may concern
us and those that do not.

Each handle has two sockets that are members of the multicast groups of rtnetlink and nf_tables. A
notification only marks the namespace as changed; reading the namespace tells what changed. While a
namespace is marked, its notifications are not parsed. An overrun (ENOBUFS) means that notifications
were lost, and marks the namespace too. The files of namespaces are watched by inotify on their
directory.

Changes of tables by our own sockets are ignored, since the kernel has acknowledged them. Ordinary
neighbour entries come and go with traffic, so only permanent ones count. When the kernel removes an
entry, it does not say whether the entry was permanent, so the permanent ones are remembered.
"""

import asyncio
import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

from weft.linux import netns
from weft.linux.handles import Handle, Handles
from weft.linux.netlink import address, link, neighbour, nftables, route, rule
from weft.linux.netlink.message import Message, decode
from weft.linux.netlink.socket import NetlinkSocket
from weft.network.kernel_state import HOST
from weft.network.ownership import (
    may_own_bridge,
    owns_bridge,
    owns_link,
    owns_routing_table,
    owns_rule,
    owns_table,
)
from weft.system.files import make_missing

_GATHER = 0.05
"""Seconds in which further changes are reported with the first."""
_IN_MOVED, _IN_CREATE, _IN_DELETE = 0xC0, 0x100, 0x200
_IN_CLOEXEC, _IN_NONBLOCK = 0o2000000, 0o4000
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """Needs a running event loop, to which it adds readers."""

    def __init__(self, handles: Handles) -> None:
        self._handles = handles
        self._loop = asyncio.get_running_loop()
        self._changed: set[str] = set()
        self._anything = asyncio.Event()
        self._permanent: dict[str, set[tuple[int, bytes]]] = {}
        self._inotify = _watch_directory(handles.directory)
        self._loop.add_reader(self._inotify, self._files_changed)
        for handle in handles:
            self.add(handle)
        handles.on_open = self.add
        handles.on_close = self.remove

    def add(self, handle: Handle) -> None:
        """Watches a new namespace, and marks it as changed."""
        self._permanent[handle.name] = set()
        routes, rules = handle.watches
        self._loop.add_reader(routes.fileno(), self._drain, handle, routes, self._concerns_route)
        self._loop.add_reader(rules.fileno(), self._drain, handle, rules, self._concerns_table)
        self.mark(handle.name)

    def remove(self, handle: Handle) -> None:
        for opened in handle.watches:
            self._loop.remove_reader(opened.fileno())
        self._permanent.pop(handle.name, None)
        self.mark(handle.name)

    def mark(self, name: str) -> None:
        self._changed.add(name)
        self._anything.set()

    def seen(self, handle: Handle, permanent: frozenset[tuple[int, bytes]]) -> None:
        """Takes over the permanent neighbours that were just read: index of device and packed
        address."""
        self._permanent[handle.name] = set(permanent)

    async def changed(self) -> set[str]:
        await self._anything.wait()
        await asyncio.sleep(_GATHER)
        found, self._changed = self._changed, set()
        self._anything.clear()
        return found

    def close(self) -> None:
        self._loop.remove_reader(self._inotify)
        os.close(self._inotify)
        for handle in self._handles:
            for opened in handle.watches:
                self._loop.remove_reader(opened.fileno())
        self._handles.on_open = self._handles.on_close = lambda handle: None

    # --- notifications

    def _drain(
        self, handle: Handle, source: NetlinkSocket, concerns: Callable[[Handle, Message], bool]
    ) -> None:
        """Handles all notifications that wait in a socket."""
        while True:
            try:
                datagram = source.receive()
            except BlockingIOError:
                return
            except OSError as error:
                self.mark(handle.name)
                if error.errno != errno.ENOBUFS:
                    return
                continue
            if handle.name not in self._changed and any(
                concerns(handle, message) for message in decode(datagram)
            ):
                self.mark(handle.name)

    def _concerns_route(self, handle: Handle, message: Message) -> bool:
        host = handle.name == HOST
        match message.type:
            case link.RTM_NEWLINK | link.RTM_DELLINK:
                info = link.decode_link(message.body)
                return not host or owns_link(info.name) or owns_bridge(info.mac)
            case address.RTM_NEWADDR | address.RTM_DELADDR:
                own = address.decode_address(message.body)
                # An address of IPv6 has no label. Ours are permanent, as few others are.
                is_named = owns_link(own.label) or may_own_bridge(own.label)
                is_six = own.address.version == 6
                if is_six and own.address.is_link_local:
                    return False
                return not host or is_named or (is_six and own.is_permanent)
            case neighbour.RTM_NEWNEIGH | neighbour.RTM_DELNEIGH:
                return self._concerns_neighbour(handle, message)
            case route.RTM_NEWROUTE | route.RTM_DELROUTE:
                found = route.decode_route(message.body)
                if route.is_ipv6(message.body) and found.protocol == route.PROTOCOL_KERNEL:
                    return False  # one for each address and each interface
                return (
                    not host
                    or owns_routing_table(found.table)
                    or found.protocol == route.PROTOCOL_WEFT
                )
            case rule.RTM_NEWRULE | rule.RTM_DELRULE:
                shown = rule.decode_rule(message.body)
                return shown is not None and (
                    not host or owns_rule(shown.priority, shown.mark, shown.input_device)
                )
        return False

    def _concerns_neighbour(self, handle: Handle, message: Message) -> bool:
        entry = neighbour.decode_neighbour(message.body)
        if entry.family not in (neighbour.AF_INET, neighbour.AF_INET6):
            return entry.at_port or (entry.permanent and bool(entry.destination))
        known = self._permanent[handle.name]
        key = (entry.device, entry.destination)
        if entry.permanent and message.type == neighbour.RTM_NEWNEIGH:
            known.add(key)
            return True
        if key in known:
            known.discard(key)
            return True
        return False

    def _concerns_table(self, handle: Handle, message: Message) -> bool:
        if nftables.is_generation(message.type) or message.port == handle.filter.port:
            return False
        return handle.name != HOST or owns_table(nftables.decode_table(message.body).name)

    # --- files

    def _files_changed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for name in _inotify_names(os.read(self._inotify, 1 << 16)):
                if netns.is_own_name(name):
                    self.mark(name)


def _watch_directory(directory: Path) -> int:
    """An inotify descriptor that reports files that appear and vanish. Raises OSError."""
    make_missing(directory, 0o755)
    descriptor = _libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if (
        _libc.inotify_add_watch(
            descriptor, os.fsencode(directory), _IN_CREATE | _IN_DELETE | _IN_MOVED
        )
        < 0
    ):
        number = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(number, os.strerror(number), str(directory))
    return int(descriptor)


def _inotify_names(data: bytes) -> list[str]:
    """The names in inotify events (`man 7 inotify`): watch, mask, cookie, length, and the name
    padded with zeros to that length."""
    names = []
    offset = 0
    while offset < len(data):
        (length,) = struct.unpack_from("=12xI", data, offset)
        names.append(os.fsdecode(data[offset + 16 : offset + 16 + length].rstrip(b"\0")))
        offset += 16 + length
    return names
