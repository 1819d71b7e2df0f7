"""A kernel in memory with the contract of `linux/base.py`. Operations are applied one after the
other, and fail with the real kernel's errors. State that the real kernel drops together with other
state is dropped, and a reader sees what the real kernel shows.

    kernel = FakeKernel()
    await kernel.apply(diff(await kernel.read(desired), desired))

Changes by others: `damage(RemoveLink(…))`, `flush_tables`, `delete_neighbours`. Failures:
`fail_next(predicate, cause)`. `latency` makes each operation take (virtual) time, before which the
caller can be cancelled. `print(kernel)` shows the whole state as the commands that would make it.
`FakeUnderlay`, in fake_underlay.py, sends packets through several fake kernels.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Interface, IPv4Network

import msgspec

from weft.errors import OperationFailed
from weft.linux.base import LinkTraffic
from weft.linux.fake_namespace import Device, FakeNamespace, Refused
from weft.linux.fake_trace import space_of
from weft.model.addresses import DEFAULT_UNDERLAY_MTU, mac_for
from weft.network import operations as op
from weft.network.diff import diff
from weft.network.kernel_state import HOST, KernelState, Link, Route, Tap, Veth, Vxlan
from weft.network.operations import AddLink, ChangeTable, Operation, ReplaceTable, SetSysctl
from weft.network.trace.host import Host

UPLINK = "ens160"
COALESCE = 0.05
"""Seconds within which changes are reported together."""

Predicate = Callable[[Operation], bool]


class FakeKernel:
    """Implements `linux.base.Kernel`. `address`: the host's own on the underlay; the router has the
    last host address of its network. Without `address`, the host takes any address for its own."""

    def __init__(
        self, address: IPv4Interface | None = None, mtu: int = DEFAULT_UNDERLAY_MTU
    ) -> None:
        self.spaces: dict[str, FakeNamespace] = {}
        self.latency = 0.0
        self.history: list[Operation] = []
        """All operations that succeeded, whoever applied them."""
        self.closed = False
        self._failing: list[tuple[Predicate, str]] = []
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._serial = 0
        host = self._add_space(HOST)
        if address is not None:
            mac = mac_for(address.ip, "0a:59")
            uplink = self._add_device(host, Link(name=UPLINK, kind=Tap(), mtu=mtu, mac=mac))
            uplink.up, uplink.addresses = True, [address]
            router = address.network[-2]
            host.add_route(Route(destination=IPv4Network("0.0.0.0/0"), via=router, device=UPLINK))

    # --- the contract of linux.base.Kernel

    async def read(self, desired: KernelState, only: Iterable[str] | None = None) -> KernelState:
        """See `linux.base.Kernel.read`."""
        await asyncio.sleep(0)
        wanted = None if only is None else set(only)
        names = [name for name in self.spaces if wanted is None or name in wanted]
        keys = {name: desired[name].sysctls if name in desired.namespaces else () for name in names}
        return KernelState({name: self.spaces[name].read(keys[name]) for name in names})

    async def apply(self, operations: Sequence[Operation]) -> None:
        """See `linux.base.Kernel.apply`."""
        await asyncio.sleep(0)
        failures = []
        for operation in operations:
            if self.latency:
                await asyncio.sleep(self.latency)
            cause = self._injected(operation) or self._attempt(operation)
            if cause is not None:
                failures.append(f"cannot apply {_title(operation)}: {cause}")
        if failures:
            error = OperationFailed(failures[0])
            for failure in failures[1:]:
                error.add_note(failure)
            raise error

    async def changed(self) -> set[str]:
        """See `linux.base.Kernel.changed`."""
        await self._wake.wait()
        await asyncio.sleep(COALESCE)
        self._wake.clear()
        names, self._changed = self._changed, set()
        return names

    async def traffic(self) -> Mapping[str, Mapping[str, LinkTraffic]]:
        """See `linux.base.Kernel.traffic`. Packets are followed here, not counted."""
        await asyncio.sleep(0)
        nothing = LinkTraffic(*[0] * len(LinkTraffic._fields))
        found = {
            name: {n: nothing for n, link in shown.links.items() if isinstance(link.kind, Vxlan)}
            for name, shown in ((name, space.read(())) for name, space in self.spaces.items())
        }
        return {name: devices for name, devices in found.items() if devices}

    async def carried(self, spaces: Iterable[str]) -> Mapping[str, Mapping[str, LinkTraffic]]:
        """See `linux.base.Kernel.carried`. Packets are followed here, not counted."""
        await asyncio.sleep(0)
        nothing = LinkTraffic(*[0] * len(LinkTraffic._fields))
        return {
            name: dict.fromkeys(self.spaces[name].devices, nothing)
            for name in spaces
            if name in self.spaces
        }

    async def survey(self, whole: Iterable[str], known: Host | None = None) -> Host:
        """See `linux.base.Kernel.survey`."""
        await asyncio.sleep(0)
        spaces = dict(known.spaces) if known else {
            name: msgspec.structs.replace(space_of(space, strict=True), whole=False)
            for name, space in self.spaces.items()
        }  # fmt: skip
        for name in whole:
            if name in self.spaces:
                spaces[name] = space_of(self.spaces[name], strict=True)
        return Host(spaces=spaces)

    async def close(self) -> None:
        """See `linux.base.Kernel.close`."""
        self.closed = True

    # --- changes by others, and failures

    def damage(self, *operations: Operation) -> None:
        """Applies operations as another program would. They must succeed."""
        for operation in operations:
            cause = self._attempt(operation)
            assert cause is None, f"{operation}: {cause}"
            self._touch(operation.namespace)

    def flush_tables(self, namespace: str) -> None:
        """Does what `nft flush table` does to each table: the tables stay, their rules go."""
        space = self.spaces[namespace]
        space.damaged |= space.tables.keys()
        self._touch(namespace)

    def delete_neighbours(self, namespace: str) -> None:
        """Deletes all neighbours and forwarding entries."""
        space = self.spaces[namespace]
        space.neighbours.clear()
        space.forwarding.clear()
        self._touch(namespace)

    def fail_next(self, predicate: Predicate, cause: str = "Input/output error") -> None:
        """Makes the next operation for which `predicate` holds fail with `cause`."""
        self._failing.append((predicate, cause))

    # --- inspection

    def state(self) -> KernelState:
        """The whole state, including things of others and what the real kernel would not tell."""
        return KernelState({name: space.everything() for name, space in self.spaces.items()})

    def __str__(self) -> str:
        return "\n".join(map(str, diff(KernelState({}), self.state())))

    # --- one operation

    def _injected(self, operation: Operation) -> str | None:
        for entry in self._failing:
            predicate, cause = entry
            if predicate(operation):
                self._failing.remove(entry)
                return cause
        return None

    def _attempt(self, operation: Operation) -> str | None:
        """The cause of failure; None if the operation is done, or its goal was reached already."""
        gone = type(operation).__name__.startswith("Remove")
        try:
            self._perform(operation)
        except Refused as refusal:
            return None if gone else str(refusal)
        self.history.append(operation)
        if not isinstance(operation, SetSysctl | ChangeTable):
            self._touch(operation.namespace)
        return None

    def _perform(self, operation: Operation) -> None:
        match operation:
            case op.AddNamespace(name):
                if name not in self.spaces:
                    self._add_space(name)
            case op.RemoveNamespace(name):
                self._remove_space(name)
            case op.AddLink():
                self._add_link(operation)
            case op.RemoveLink(name, device):
                self._remove_device(self._space(name).device(device))
            case _:
                self._perform_inside(self._space(operation.namespace), operation)

    @staticmethod
    def _perform_inside(space: FakeNamespace, operation: Operation) -> None:
        match operation:
            case op.SetLink():
                space.set_link(operation)
            case op.AddAddress(_, device, address):
                space.add_address(device, address)
            case op.RemoveAddress(_, device, address):
                space.remove_address(device, address)
            case op.AddNeighbour(_, neighbour):
                space.add_neighbour(neighbour)
            case op.RemoveNeighbour(_, neighbour):
                space.neighbours.pop((neighbour.device, neighbour.address), None)
            case op.AddForwarding(_, entry):
                space.add_forwarding(entry)
            case op.RemoveForwarding(_, entry):
                space.remove_forwarding(entry)
            case op.AddRoute(_, route):
                space.add_route(route)
            case op.RemoveRoute(_, route):
                space.remove_route(route)
            case op.AddRule(_, rule):
                space.rules.add(rule)
            case op.RemoveRule(_, rule):
                space.rules.discard(rule)
            case op.SetSysctl(_, key, value):
                space.set_sysctl(key, value)
            case op.ReplaceTable(_, table):
                space.replace_table(table)
            case op.ChangeTable(_, table, changes):
                space.change_table(table, changes)
            case op.RemoveTable(_, family, name):
                space.remove_table((family, name))
            case _:
                raise AssertionError(f"unknown operation {operation!r}")

    # --- namespaces and links

    def _space(self, name: str) -> FakeNamespace:
        if name not in self.spaces:
            raise Refused(f"no network namespace {name}")
        return self.spaces[name]

    def _add_space(self, name: str) -> FakeNamespace:
        space = self.spaces[name] = FakeNamespace(name)
        return space

    def _remove_space(self, name: str) -> None:
        """Removes a namespace with its links, their other ends, and the tunnels whose sockets are
        in it."""
        space = self._space(name)
        if name == HOST:
            raise AssertionError("nobody removes the host's namespace")
        tunnels = [
            d for s in self.spaces.values() for d in s.devices.values() if _socket(d) == name
        ]
        for device in [*space.devices.values(), *tunnels]:
            if device.space.devices.get(device.name) is device:
                self._remove_device(device)
        del self.spaces[name]
        self._touch(name)

    def _add_link(self, operation: AddLink) -> None:
        link, kind = operation.link, operation.link.kind
        space = self._space(operation.namespace)
        ends = [(space, link)]
        if isinstance(kind, Veth):
            if operation.peer is None or kind.peer_namespace is None:
                raise Refused("a veth needs its other end")
            ends.append((self._space(kind.peer_namespace), operation.peer))
        if any(end.name in where.devices for where, end in ends):
            if all(
                end.name in where.devices and _same_kind(where.devices[end.name], end)
                for where, end in ends
            ):
                return
            raise Refused("File exists")
        if isinstance(kind, Vxlan):
            self._check_vni(kind)
        devices = [self._add_device(where, end) for where, end in ends]
        if isinstance(kind, Veth):
            devices[0].peer, devices[1].peer = devices[1], devices[0]

    def _check_vni(self, kind: Vxlan) -> None:
        self._space(kind.socket)
        for space in self.spaces.values():
            for device in space.devices.values():
                other = device.kind
                if isinstance(other, Vxlan) and (other.vni, other.port, other.socket) == (
                    kind.vni,
                    kind.port,
                    kind.socket,
                ):
                    raise Refused("A VXLAN device with the specified VNI already exists")

    def _add_device(self, space: FakeNamespace, link: Link) -> Device:
        self._serial += 1
        device = space.add_device(
            link, f"0a:00:00:00:{self._serial >> 8 & 255:02x}:{self._serial & 255:02x}"
        )
        self._touch(space.name)
        return device

    def _remove_device(self, device: Device) -> None:
        for end in (device, device.peer):
            if end is not None:
                end.space.forget_device(end)
                self._touch(end.space.name)

    def _touch(self, name: str) -> None:
        self._changed.add(name)
        self._wake.set()


def _socket(device: Device) -> str | None:
    return device.kind.socket if isinstance(device.kind, Vxlan) else None


def _same_kind(device: Device, link: Link) -> bool:
    return (
        device.kind == link.kind
        if isinstance(link.kind, Vxlan)
        else type(device.kind) is type(link.kind)
    )


def _title(operation: Operation) -> str:
    """The operation's first line, without a table's rules."""
    if isinstance(operation, ReplaceTable | ChangeTable):
        return f"nft table {operation.table.family} {operation.table.name} in {operation.namespace}"
    return f"`{operation}`"
