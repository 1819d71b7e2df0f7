"""The namespaces in use, each with its open descriptors: the namespace itself, a netlink socket for
requests, one for netfilter, and two for notifications.

Opening takes a thread, so a handle is kept as long as its namespace. A socket keeps a namespace
alive after its file is gone. So `refresh` closes the handles whose file is gone or names another
namespace, and opens the new ones.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from weft.errors import OperationFailed
from weft.linux import netns, sysctl
from weft.linux.netlink import link, nftables
from weft.linux.netlink.socket import NETLINK_NETFILTER, NETLINK_ROUTE, NetlinkSocket
from weft.linux.nft import Nft
from weft.network.kernel_state import HOST

_HERE = Path("/proc/thread-self/ns/net")
_MARK_KEY = "net.ipv4.conf.lo.tag"
_MARK = str(int.from_bytes(b"WEFT", "big"))
"""Marks a namespace as made by us, since Docker's have names like ours. The mark is a number that
the kernel keeps with every interface and leaves to the administrator's use (`ip-sysctl.rst`,
`tag`)."""
_ROUTE_GROUPS = (1, 3, 5, 7, 8, 9, 11)
"""RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE."""
_SOCKETS = (
    (NETLINK_ROUTE, ()),
    (NETLINK_NETFILTER, ()),
    (NETLINK_ROUTE, _ROUTE_GROUPS),
    (NETLINK_NETFILTER, (nftables.NOTIFICATIONS,)),
)
"""Sockets in every namespace: two for requests, and two for the kernel's notifications of
changes."""


class Handle:
    """One namespace with its open sockets. Must be made on a thread that is inside."""

    def __init__(self, name: str) -> None:
        self.name = name
        with contextlib.ExitStack() as opened:
            self.descriptor = os.open(_HERE, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, self.descriptor)
            self.route, self.filter, routes, tables = (
                opened.enter_context(
                    contextlib.closing(NetlinkSocket(protocol, groups, blocking=not groups))
                )
                for protocol, groups in _SOCKETS
            )
            self._opened = opened.pop_all()
        self.identity = os.fstat(self.descriptor).st_ino
        self.watches = (routes, tables)
        """Notifications of rtnetlink and of nf_tables."""
        self._nft: Nft | None = None

    @property
    def nft(self) -> Nft:
        """To be used on a thread inside the namespace."""
        if self._nft is None:
            self._nft = Nft()
        return self._nft

    def generation(self) -> int:
        """A number that grows with every nf_tables transaction in the namespace."""
        return nftables.decode_generation(self.filter.ask(nftables.get_generation()))

    def take_nft(self) -> Nft | None:
        """Gives up the open nftables context, if any; the caller closes it."""
        taken, self._nft = self._nft, None
        return taken

    def close(self) -> None:
        """May wait some milliseconds for nftables: not on the event loop."""
        self._opened.close()


def _mark() -> None:
    sysctl.write(_MARK_KEY, _MARK)


def _fresh(name: str) -> Handle:
    """Opens the handle of a new namespace and brings its loopback up."""
    handle = Handle(name)
    handle.route.execute([link.loopback_up()])
    return handle


def _existing(name: str) -> Handle | None:
    """Opens the handle of an existing namespace; None if we did not make it."""
    return Handle(name) if sysctl.read(_MARK_KEY) == _MARK else None


class Handles:
    """Handles by name of namespace. HOST is included from the beginning."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._handles = {HOST: Handle(HOST)}
        self._foreign: dict[str, int | None] = {}
        """Namespaces of others with names like ours: their `netns.identity` by name."""
        self._closing: set[asyncio.Future[None]] = set()
        self.on_open: Callable[[Handle], None] = lambda handle: None
        self.on_close: Callable[[Handle], None] = lambda handle: None

    def __iter__(self) -> Iterator[Handle]:
        return iter(tuple(self._handles.values()))

    def __getitem__(self, name: str) -> Handle:
        """Raises OperationFailed if there is no such namespace."""
        found = self._handles.get(name)
        if found is None:
            raise OperationFailed(f"no network namespace {name} in {self.directory}")
        return found

    def get(self, name: str) -> Handle | None:
        return self._handles.get(name)

    async def refresh(self) -> None:
        """Opens namespaces that appeared in the directory, closes those that vanished."""
        living = {
            name: netns.identity(self.directory / name) for name in netns.names(self.directory)
        }
        for handle in self:
            if handle.name != HOST and living.get(handle.name) != handle.identity:
                self._let_go(handle)
        self._foreign = {
            name: known for name, known in self._foreign.items() if living.get(name) == known
        }
        for name in living:
            if name not in self._handles and name not in self._foreign:
                with contextlib.suppress(OperationFailed):
                    await self._open(name)

    async def create(self, name: str) -> None:
        """Makes the namespace, unless it exists already, and brings its loopback up."""
        if not netns.is_own_name(name):
            raise OperationFailed(f"{name!r} is not a name of ours")
        path = self.directory / name
        known = self._handles.get(name)
        if known is not None and netns.identity(path) == known.identity:
            return
        if known is not None:
            self._let_go(known)
        if not await self._open(name):
            self._add(
                await netns.on_thread(lambda: netns.create_here(path, lambda: _fresh(name), _mark))
            )

    async def remove(self, name: str) -> None:
        """Removes the file and closes what keeps the namespace alive. Does nothing if both are
        gone."""
        if name in self._handles or await self._open(name):
            self._let_go(self._handles[name])
        netns.remove(self.directory / name)

    async def close(self) -> None:
        for handle in self:
            self._let_go(handle)
        await asyncio.gather(*self._closing)

    async def _open(self, name: str) -> bool:
        """Opens a namespace that exists already; False if there is none. Raises OperationFailed if
        it is not ours."""
        path = self.directory / name
        identity = netns.identity(path)
        if identity is None:
            return False
        handle = await netns.on_thread(netns.inside_file(path, lambda: _existing(name)))
        if handle is None:
            self._foreign[name] = identity
            raise OperationFailed(f"{path} names a network namespace that somebody else made")
        self._add(handle)
        return True

    def _add(self, handle: Handle) -> None:
        self._handles[handle.name] = handle
        self.on_open(handle)

    def _let_go(self, handle: Handle) -> None:
        del self._handles[handle.name]
        self.on_close(handle)
        self.retire_nft(handle)
        self.in_background(handle.close)

    def retire_nft(self, handle: Handle) -> None:
        """Closes the handle's nftables context, if any; the next use opens another."""
        taken = handle.take_nft()
        if taken is not None:
            self.in_background(taken.close)

    def in_background(self, close: Callable[[], None]) -> None:
        closing = asyncio.get_running_loop().run_in_executor(None, close)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
