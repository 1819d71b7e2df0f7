"""A fake kernel as a walk sees it (`network/trace/host.py`), and its memory of connections, which
outlives the walks."""

from ipaddress import IPv4Address, IPv4Network

from weft.linux.fake import UPLINK, FakeKernel
from weft.linux.fake_namespace import Device as FakeDevice
from weft.linux.fake_namespace import FakeNamespace
from weft.network.kernel_state import HOST, Route, Veth
from weft.network.trace.conntrack import Connections
from weft.network.trace.flights import Memory
from weft.network.trace.host import Device, Host, Space
from weft.network.trace.nft import Ruleset

LOCAL = IPv4Network("127.0.0.0/8")


def host_of(kernel: FakeKernel) -> Host:
    """All namespaces, whole. A flushed table has no rules."""
    return Host(spaces={name: _space(space) for name, space in kernel.spaces.items()})


class FakeMemory(Memory):
    """That of the fake namespaces."""

    def __init__(self, kernel: FakeKernel) -> None:
        super().__init__()
        self._kernel = kernel

    def connections(self, namespace: str) -> Connections:
        return self._kernel.spaces[namespace].connections

    def counters(self, namespace: str) -> dict[str, int]:
        return self._kernel.spaces[namespace].counters


def _space(space: FakeNamespace) -> Space:
    entries = space.forwarding.values()
    masters = {name: device.master for name, device in space.devices.items()}
    ports = {
        (master.name, entry.mac): entry.device
        for entry in entries
        if entry.vtep is None and (master := masters[entry.device]) is not None
    }
    connected = [
        Route(destination=address.network, device=device.name, source=address.ip)
        for device in space.devices.values()
        if device.up
        for address in device.addresses
        if address.network.prefixlen < 32
    ]
    return Space(
        name=space.name,
        devices={name: _device(device) for name, device in space.devices.items()},
        local=(LOCAL, *(IPv4Network(a.ip) for d in space.devices.values() for a in d.addresses)),
        neighbours={key: neighbour.mac for key, neighbour in space.neighbours.items()},
        tunnels={(e.device, e.mac): e.vtep for e in entries if e.vtep is not None},
        ports=ports,
        routes=(*space.routes.values(), *connected),
        rules=tuple(space.rules),
        sysctls=space.sysctls,
        tables={
            key: Ruleset({}, {}) if key in space.damaged else space.ruleset(key)
            for key in space.tables
        },
        bound=frozenset(device.name for devices in space.bound.values() for device in devices),
    )


def _device(device: FakeDevice) -> Device:
    kind = None if device.name == UPLINK else device.kind
    peer = device.peer
    return Device(
        space=device.space.name,
        name=device.name,
        kind=Veth() if isinstance(kind, Veth) else kind,
        mtu=device.mtu,
        mac=device.mac,
        up=device.up,
        master=device.master.name if device.master else None,
        addresses=tuple(device.addresses),
        port=device.port,
        peer=(peer.space.name, peer.name) if peer is not None else None,
    )


def uplink_addresses(kernel: FakeKernel) -> list[IPv4Address]:
    device = kernel.spaces[HOST].devices[UPLINK]
    return [address.ip for address in device.addresses]
