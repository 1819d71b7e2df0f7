"""The real kernel behind `linux.base.Kernel`: reads, writes and watches the network part of this
host's kernel.

This file holds no desired state and decides nothing. It remembers only which sockets it opened
(`handles`) and what it last wrote as nftables tables (`tables`); both can be lost. `reader` reads,
`writer` applies, `watch` notices changes. Netlink is used on the event loop, because a request
takes microseconds. Code that enters a namespace or waits runs on a thread of its own. Only the
host's own namespace is touched, and namespaces in the given directory with names of ours
(`netns.OWN_NAMES`).
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.linux.base import LinkTraffic
from weft.linux.handles import Handle, Handles
from weft.linux.netlink import link
from weft.linux.reader import read_namespace
from weft.linux.survey import Outlines, read_space
from weft.linux.tables import Tables
from weft.linux.watch import Watch
from weft.linux.writer import Writer
from weft.network.kernel_state import KernelState, Namespace
from weft.network.operations import Operation
from weft.network.trace.host import Host

NETNS_DIRECTORY = Path("/run/docker/netns")


class RealKernel:
    """Implements `linux.base.Kernel`. Must be made and used on one event loop's thread, in the
    host's namespace."""

    def __init__(self, netns_dir: Path = NETNS_DIRECTORY) -> None:
        try:
            self._handles = Handles(netns_dir)
        except OSError as error:
            raise OperationFailed(f"cannot open netlink: {cause_of(error)}") from error
        self._tables = Tables(self._handles)
        self._watch: Watch | None = None
        self._turn = asyncio.Lock()
        """Held while reading or applying: a namespace must not be closed while it is read."""

    async def read(self, desired: KernelState, only: Iterable[str] | None = None) -> KernelState:
        """See `linux.base.Kernel.read`."""
        self._watching()
        wanted = None if only is None else set(only)
        found = {}
        async with self._turn:
            await self._refresh()
            for handle in self._handles:
                if wanted is None or handle.name in wanted:
                    found[handle.name] = await self._read_one(handle, desired)
                    await asyncio.sleep(0)
        return KernelState(found)

    async def apply(self, operations: Sequence[Operation]) -> None:
        """See `linux.base.Kernel.apply`."""
        self._watching()
        async with self._turn:
            await Writer(self._handles, self._tables).apply(operations)

    async def changed(self) -> set[str]:
        """See `linux.base.Kernel.changed`."""
        return await self._watching().changed()

    async def traffic(self) -> Mapping[str, Mapping[str, LinkTraffic]]:
        """See `linux.base.Kernel.traffic`."""
        counted = await self._counted(handle.name for handle in self._handles)
        tunnels = {
            name: {device: traffic for device, kind, traffic in devices if kind == "vxlan"}
            for name, devices in counted.items()
        }
        return {name: devices for name, devices in tunnels.items() if devices}

    async def carried(self, spaces: Iterable[str]) -> Mapping[str, Mapping[str, LinkTraffic]]:
        """See `linux.base.Kernel.carried`."""
        counted = await self._counted(spaces)
        return {
            name: {device: traffic for device, _, traffic in devices}
            for name, devices in counted.items()
        }

    async def _counted(
        self, spaces: Iterable[str]
    ) -> dict[str, list[tuple[str, str, LinkTraffic]]]:
        found = {}
        async with self._turn:
            for name in tuple(spaces):
                handle = self._handles.get(name)
                if handle is None:
                    continue
                try:
                    bodies = handle.route.dump(*link.dump_statistics())
                except OSError as error:
                    raise OperationFailed(
                        f"cannot read network namespace {name}: {cause_of(error)}"
                    ) from error
                found[name] = list(filter(None, map(link.decode_statistics, bodies)))
                await asyncio.sleep(0)
        return found

    async def survey(self, whole: Iterable[str], known: Host | None = None) -> Host:
        """See `linux.base.Kernel.survey`."""
        self._watching()
        async with self._turn:
            await self._refresh()
            try:
                spaces = dict(known.spaces) if known else Outlines(self._handles).spaces()
                for name in whole:
                    handle = self._handles.get(name)
                    if handle is not None and name in spaces:
                        spaces[name] = await read_space(handle, spaces[name], self._tables)
            except (OSError, ValueError) as error:
                raise OperationFailed(f"cannot read the network: {error}") from error
        return Host(spaces=spaces)

    async def close(self) -> None:
        """See `linux.base.Kernel.close`."""
        async with self._turn:
            if self._watch is not None:
                self._watch.close()
            self._tables.close()
            await self._handles.close()

    def _watching(self) -> Watch:
        """The watch; made at the first call, since it needs the running loop."""
        if self._watch is None:
            try:
                self._watch = Watch(self._handles)
            except OSError as error:
                raise OperationFailed(
                    f"cannot watch {self._handles.directory}: {cause_of(error)}"
                ) from error
        return self._watch

    async def _refresh(self) -> None:
        try:
            await self._handles.refresh()
        except OSError as error:
            raise OperationFailed(
                f"cannot open the namespaces in {self._handles.directory}: {cause_of(error)}"
            ) from error

    async def _read_one(self, handle: Handle, desired: KernelState) -> Namespace:
        wanted = desired.namespaces.get(handle.name)
        try:
            tables = await self._tables.read(handle)
            reading = await read_namespace(handle, wanted.sysctls if wanted else (), tables)
        except OSError as error:
            raise OperationFailed(
                f"cannot read network namespace {handle.name}: {cause_of(error)}"
            ) from error
        self._watching().seen(handle, reading.permanent)
        return reading.namespace
