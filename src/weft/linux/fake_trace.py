"""Fake namespaces as a walk sees them (`network/trace/host.py`), and their memory of connections,
which outlives the walks."""

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network

from weft.linux.fake_namespace import Device as FakeDevice
from weft.linux.fake_namespace import FakeNamespace
from weft.network.kernel_state import HOST, Route, Tap, Veth
from weft.network.trace.conntrack import Connections
from weft.network.trace.flights import Memory
from weft.network.trace.host import Device, Space
from weft.network.trace.nft import Ruleset

LOCAL = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


class FakeMemory(Memory):
    """That of the fake namespaces."""

    def __init__(self, spaces: Mapping[str, FakeNamespace]) -> None:
        super().__init__()
        self._spaces = spaces

    def connections(self, namespace: str) -> Connections:
        return self._spaces[namespace].connections

    def counters(self, namespace: str) -> dict[str, int]:
        return self._spaces[namespace].counters


def space_of(space: FakeNamespace, *, strict: bool) -> Space:
    """The whole namespace. `strict`: say that a flushed table is not what was applied; otherwise it
    has no rules, as is true."""
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
        if address.network.prefixlen < address.max_prefixlen
    ]
    return Space(
        name=space.name,
        devices={name: _device(device) for name, device in space.devices.items()},
        local=(*LOCAL, *(ip_network(a.ip) for d in space.devices.values() for a in d.addresses)),
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
        changed=frozenset(space.damaged) if strict else frozenset(),
        bound=frozenset(device.name for devices in space.bound.values() for device in devices),
    )


def _device(device: FakeDevice) -> Device:
    is_uplink = device.space.name == HOST and isinstance(device.kind, Tap)
    kind = None if is_uplink else device.kind
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
