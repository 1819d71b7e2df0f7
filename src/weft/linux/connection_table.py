"""The connections that a namespace tracks: all of them at one time, and their changes as they come.

Reading is for a thread: thousands of connections take tenths of a second. Changes come on the event
loop; a socket that is not read fast enough loses some, and says so, and the kernel never waits.
`include/uapi/linux/netfilter/nfnetlink_conntrack.h`.
"""

import asyncio
import contextlib
import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from weft.errors import OperationFailed, cause_of
from weft.linux import netns, sysctl
from weft.linux.netlink.conntrack import EVENTS, GENERIC, GET, decode_change, decode_tracked
from weft.linux.netlink.message import decode
from weft.linux.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from weft.model.flows import TrackedChange, TrackedTable

T = TypeVar("T")

COUNTS = "net.netfilter.nf_conntrack_acct"
ROOM = 256 << 10
"""Bytes of changes that may wait: about a thousand."""
DATAGRAMS = 64
"""Datagrams that are read in one go."""


async def read_table(namespace: Path | None, most: int) -> TrackedTable:
    """`namespace`: its file; None for the host's. `most`: connections that are read, about. Raises
    `OperationFailed`."""
    return await _there(namespace, lambda: _read(most))


def _read(most: int) -> TrackedTable:
    with contextlib.closing(NetlinkSocket(NETLINK_NETFILTER)) as channel:
        bodies, is_whole = channel.dump_first(GET, GENERIC, most)
    found = tuple(filter(None, map(decode_tracked, bodies)))
    return TrackedTable(found, is_whole, sysctl.read(COUNTS) == "1")


async def watch_table(namespace: Path | None) -> "TableWatch":
    """Changes from now on. Raises `OperationFailed`."""
    opened = await _there(
        namespace, lambda: NetlinkSocket(NETLINK_NETFILTER, EVENTS, blocking=False, buffer=ROOM)
    )
    return TableWatch(opened)


async def _there(namespace: Path | None, function: Callable[[], T]) -> T:
    inside = function if namespace is None else netns.inside_file(namespace, function)
    try:
        return await netns.on_thread(inside)
    except OSError as error:
        raise OperationFailed(f"cannot read tracked connections: {cause_of(error)}") from error


class TableWatch:
    """Implements `linux.base.ConnectionWatch`. Must be closed."""

    def __init__(self, opened: NetlinkSocket) -> None:
        self._socket = opened
        self._ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(opened.fileno(), self._ready.set)

    async def read(self) -> Sequence[TrackedChange] | None:
        """See `linux.base.ConnectionWatch.read`."""
        while True:
            await self._ready.wait()
            found: list[TrackedChange] = []
            for _ in range(DATAGRAMS):
                try:
                    data = self._socket.receive()
                except BlockingIOError:
                    self._ready.clear()
                    break
                except OSError as error:
                    if error.errno == errno.ENOBUFS:
                        return None
                    raise OperationFailed(f"cannot watch: {cause_of(error)}") from error
                found.extend(filter(None, map(decode_change, decode(data))))
            if found:
                return found

    def close(self) -> None:
        """See `linux.base.ConnectionWatch.close`."""
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
