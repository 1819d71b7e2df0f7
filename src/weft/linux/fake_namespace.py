"""One network namespace in memory: links and the state that depends on them, with the kernel's own
rules for what is removed together.

Removing a link removes its other end, its addresses, routes, neighbours and forwarding entries. A
link that goes down, or loses its last address, loses its routes and neighbours; a link with a new
MAC loses its neighbours (`neigh_changeaddr`). Removing an address removes the routes of the main
table that name it as their source. A chain bound to a device dies with the device. Operations that
the kernel would refuse raise `Refused`. tests/kernel/test_fake_kernel.py checks all of this against
a real kernel.

Only state: no asyncio, no packets. `FakeKernel` finds the namespace and calls the method for an
operation.
"""

import re
from collections.abc import Iterable

from weft.model.addresses import Address, Interface, MacAddress, Subnet
from weft.network.diff import device_of
from weft.network.kernel_state import (
    HOST,
    MAIN_TABLE,
    Bridge,
    BridgePort,
    ForwardingEntry,
    Link,
    Namespace,
    Neighbour,
    Route,
    Rule,
    Table,
    Veth,
    Vxlan,
)
from weft.network.operations import SetLink
from weft.network.ownership import (
    owns_bridge,
    owns_link,
    owns_routing_table,
    owns_rule,
    owns_table,
)
from weft.network.render.changes import Changes, SetTurn
from weft.network.render.table import text
from weft.network.trace.conntrack import Connections
from weft.network.trace.nft import Ruleset, parse

BOUND_TO = re.compile(r'hook \w+ device "([^"]+)"')


class Refused(Exception):
    """The kernel refuses the operation. `str()` is its reason."""


class Device:
    """A network interface. `peer`: the other end of a veth."""

    def __init__(self, space: "FakeNamespace", link: Link, mac: MacAddress) -> None:
        self.space = space
        self.name = link.name
        self.kind = link.kind
        self.mtu = link.mtu
        self.mac = link.mac or mac
        self.peer: Device | None = None
        self.master: Device | None = None
        self.addresses: list[Interface] = []
        """The kernel uses the first one as source address."""
        self.up = False
        self.port = BridgePort()

    def __repr__(self) -> str:
        return f"{self.space.name}/{self.name}"

    def link(self, *, told: bool) -> Link:
        """`told`: include the names of the veth's other end and of the socket's namespace, which
        the kernel does not tell."""
        kind = self.kind
        if isinstance(kind, Veth):
            kind = Veth(self.peer.space.name, self.peer.name) if told and self.peer else Veth()
        elif isinstance(kind, Vxlan) and not told:
            kind = Vxlan(kind.vni, kind.local, kind.port)
        return Link(
            name=self.name,
            kind=kind,
            mtu=self.mtu,
            mac=self.mac,
            master=self.master.name if self.master else None,
            addresses=frozenset(self.addresses),
            up=self.up,
            port=self.port,
        )


class FakeNamespace:
    def __init__(self, name: str) -> None:
        self.name = name
        self.devices: dict[str, Device] = {}
        self.neighbours: dict[tuple[str, Address], Neighbour] = {}
        self.forwarding: dict[tuple[str, MacAddress], ForwardingEntry] = {}
        self.routes: dict[tuple[int, Subnet], Route] = {}
        self.rules: set[Rule] = set()
        self.sysctls: dict[str, str] = {}
        self.tables: dict[tuple[str, str], Table] = {}
        self.damaged: set[tuple[str, str]] = set()
        """Tables whose rules are not, or are not known to be, those that were applied."""
        self.rulesets: dict[tuple[str, str], Ruleset] = {}
        """Content of the tables whose rules were evaluated or changed."""
        self.rewritten = 0
        """How often a table had to be written whole because it was not in the state that a change
        expects."""
        self.bound: dict[tuple[str, str], list[Device]] = {}
        """The devices to which a table's chains are bound."""
        self.connections = Connections()
        self.counters: dict[str, int] = {}
        """Counters of rules with `numgen inc`, by chain and rule."""

    # --- links

    def device(self, name: str) -> Device:
        if name not in self.devices:
            raise Refused(f"no device {name}")
        return self.devices[name]

    def add_device(self, link: Link, mac: MacAddress) -> Device:
        device = self.devices[link.name] = Device(self, link, mac)
        self.damaged |= {key for key in self.tables if key[0] == "netdev"}
        return device

    def forget_device(self, device: Device) -> None:
        """Removes a device with all that depends on it; the caller removes its other end."""
        del self.devices[device.name]
        self._drop_routes(device.name)
        self._drop_neighbours(device.name)
        self.forwarding = {k: e for k, e in self.forwarding.items() if e.device != device.name}
        self.sysctls = {k: v for k, v in self.sysctls.items() if device_of(k) != device.name}
        for other in self.devices.values():
            if other.master is device:
                other.master, other.port = None, BridgePort()
                self._forget_ports({other.name})
        for devices in self.bound.values():
            if device in devices:
                devices.remove(device)

    def set_link(self, o: SetLink) -> None:
        device = self.device(o.name)
        if o.master is not None and o.master != (device.master.name if device.master else ""):
            self._forget_ports({o.name})
        if o.master:
            master = self.device(o.master)
            if not isinstance(master.kind, Bridge):
                raise Refused("Operation not supported")
            device.port = device.port if device.master is master else BridgePort()
            device.master = master
        elif o.master is not None:
            device.master, device.port = None, BridgePort()
        if o.port is not None:
            if device.master is None:
                raise Refused("Operation not supported")
            device.port = o.port
        if o.mtu is not None:
            device.mtu = o.mtu
        if o.mac is not None and o.mac != device.mac:
            device.mac = o.mac
            self._drop_neighbours(o.name)
        if o.up is not None:
            device.up = o.up
        if o.up is False:
            self._drop_routes(o.name)
            self._drop_neighbours(o.name)

    # --- addresses, neighbours, forwarding entries

    def add_address(self, name: str, address: Interface) -> None:
        device = self.device(name)
        if address not in device.addresses:
            device.addresses.append(address)

    def remove_address(self, name: str, address: Interface) -> None:
        device = self.device(name)
        if address not in device.addresses:
            raise Refused("Cannot assign requested address")
        device.addresses.remove(address)
        if not self.is_local(address.ip):
            self.routes = {
                k: r
                for k, r in self.routes.items()
                if r.source != address.ip or r.table != MAIN_TABLE
            }
        if not device.addresses:
            self._drop_routes(name)
            self._drop_neighbours(name)

    def is_local(self, address: Address) -> bool:
        return address.is_loopback or any(
            address == a.ip for d in self.devices.values() for a in d.addresses
        )

    def add_neighbour(self, neighbour: Neighbour) -> None:
        self.device(neighbour.device)
        self.neighbours[neighbour.device, neighbour.address] = neighbour

    def add_forwarding(self, entry: ForwardingEntry) -> None:
        """With a `vtep`, any device but VXLAN takes the MAC for one more address of its own, which
        a reader is not shown. A bridge has only one port for a MAC."""
        device = self.device(entry.device)
        if entry.vtep is None:
            if device.master is None:
                raise Refused("Operation not supported")
            ports = {port.name for port in self.devices.values() if port.master is device.master}
            self._forget_ports(ports, entry.mac)
        if entry.vtep is None or isinstance(device.kind, Vxlan):
            self.forwarding[entry.device, entry.mac] = entry

    def remove_forwarding(self, entry: ForwardingEntry) -> None:
        if self.forwarding.get((entry.device, entry.mac)) == entry:
            del self.forwarding[entry.device, entry.mac]

    def _forget_ports(self, ports: set[str], mac: MacAddress | None = None) -> None:
        """Removes a bridge's entries for these ports, or only those for `mac`."""
        self.forwarding = {
            key: e for key, e in self.forwarding.items()
            if e.vtep is not None or e.device not in ports or mac not in (None, e.mac)
        }  # fmt: skip

    # --- routes, rules, parameters, tables

    def add_route(self, route: Route) -> None:
        device = self.device(route.device)
        if not device.up:
            raise Refused("Network is down")
        if (
            route.via
            and not route.onlink
            and not any(route.via in a.network for a in device.addresses)
        ):
            raise Refused("Nexthop has invalid gateway")
        nameless = self.name == HOST and not any(
            a for d in self.devices.values() if not self._is_shown(d) for a in d.addresses
        )
        if route.source and not self.is_local(route.source) and not nameless:
            raise Refused("Invalid prefsrc address")
        self.routes[route.table, route.destination] = route

    def remove_route(self, route: Route) -> None:
        if self.routes.get((route.table, route.destination)) == route:
            del self.routes[route.table, route.destination]

    def set_sysctl(self, key: str, value: str) -> None:
        device = device_of(key)
        if device is not None and device not in self.devices:
            raise Refused("No such file or directory")
        self.sysctls[key] = value

    def sysctl(self, key: str) -> str | None:
        """The value, "0" if nobody set one; None if the key is about a device that does not
        exist."""
        device = device_of(key)
        return (
            None
            if device is not None and device not in self.devices
            else self.sysctls.get(key, "0")
        )

    def replace_table(self, table: Table) -> None:
        key = (table.family, table.name)
        devices = [self.devices.get(name) for name in BOUND_TO.findall(table.body)]
        if None in devices:
            raise Refused("Could not process rule: No such file or directory")
        self.tables[key] = table
        self.bound[key] = [device for device in devices if device is not None]
        self.rulesets.pop(key, None)
        self.counters.clear()
        self.damaged.discard(key)

    def change_table(self, table: Table, changes: Changes) -> None:
        """Changes a table. If it is not in the expected state, it is written whole."""
        key = (table.family, table.name)
        try:
            if key not in self.tables or key in self.damaged:
                raise KeyError(f"table {key} is not what it was")
            self.rulesets[key] = self.ruleset(key).after(table, changes)
        except (KeyError, ValueError):
            self.rewritten += 1
            self.replace_table(table)
            return
        self.tables[key] = table
        fresh = [change.turn.chain for change in changes if isinstance(change, SetTurn)]
        self.counters = {k: n for k, n in self.counters.items() if k.partition(":")[0] not in fresh}

    def ruleset(self, key: tuple[str, str]) -> Ruleset:
        """The rules of an existing table: as written, then changed. Raises ValueError for text that
        is not understood."""
        if key not in self.rulesets:
            self.rulesets[key] = parse(text(self.tables[key]))
        return self.rulesets[key]

    def remove_table(self, key: tuple[str, str]) -> None:
        self.tables.pop(key, None)
        self.bound.pop(key, None)
        self.rulesets.pop(key, None)
        self.damaged.discard(key)

    # --- as a value

    def read(self, keys: Iterable[str]) -> Namespace:
        """The state that the real reader would show: in the host's namespace, only our own part.
        `keys`: the sysctls to read."""
        shown = {name for name, device in self.devices.items() if self._is_shown(device)}
        tables = {k: Table(*k) if k in self.damaged else t for k, t in self.tables.items()}
        values = {key: value for key in keys if (value := self.sysctl(key)) is not None}
        return self._value(
            shown,
            {k: t for k, t in tables.items() if self.name != HOST or owns_table(k[1])},
            values,
            told=False,
        )

    def _is_shown(self, device: Device) -> bool:
        if self.name != HOST or owns_link(device.name):
            return True
        return isinstance(device.kind, Bridge) and owns_bridge(device.mac)

    def everything(self) -> Namespace:
        """The whole state, including things of others and what the kernel would not tell."""
        return self._value(set(self.devices), self.tables, self.sysctls, told=True)

    def _value(
        self,
        shown: set[str],
        tables: dict[tuple[str, str], Table],
        sysctls: dict[str, str],
        *,
        told: bool,
    ) -> Namespace:
        host = self.name == HOST and not told
        return Namespace(
            name=self.name,
            links={
                name: self.devices[name].link(told=told) for name in self.devices if name in shown
            },
            neighbours=frozenset(n for n in self.neighbours.values() if n.device in shown),
            forwarding=frozenset(e for e in self.forwarding.values() if e.device in shown),
            routes=frozenset(
                r
                for r in self.routes.values()
                if not host or owns_routing_table(r.table) or owns_link(r.device)
            ),
            rules=frozenset(
                r for r in self.rules if not host or owns_rule(r.priority, r.mark, r.input_device)
            ),
            sysctls=sysctls,
            tables=tables,
        )

    def _drop_routes(self, device: str) -> None:
        self.routes = {k: r for k, r in self.routes.items() if r.device != device}

    def _drop_neighbours(self, device: str) -> None:
        self.neighbours = {k: n for k, n in self.neighbours.items() if n.device != device}
