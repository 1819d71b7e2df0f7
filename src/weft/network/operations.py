"""One step from one kernel state to another. Each operation prints as the command that a person
would type.

The kernel may refuse to apply an operation twice (EEXIST, ENOENT). The adapter takes "already so"
and "already gone" for success, because the state may have changed between reading and applying.
"""

import msgspec

from weft.model.addresses import Interface, MacAddress
from weft.network.kernel_state import (
    HOST,
    MAIN_TABLE,
    Bridge,
    BridgePort,
    ForwardingEntry,
    Link,
    Neighbour,
    Route,
    Rule,
    Table,
    Tap,
    Veth,
    Vxlan,
)
from weft.network.render.changes import Changes, commands
from weft.network.render.table import text


class AddNamespace(msgspec.Struct, frozen=True):
    namespace: str

    def __str__(self) -> str:
        return f"ip netns add {self.namespace}"


class RemoveNamespace(msgspec.Struct, frozen=True):
    namespace: str

    def __str__(self) -> str:
        return f"ip netns delete {self.namespace}"


class AddLink(msgspec.Struct, frozen=True):
    """Makes a link, down and bare except for its MTU and MAC. A veth is made with its peer, whose
    settings are in `peer`."""

    namespace: str
    link: Link
    peer: Link | None = None

    def __str__(self) -> str:
        kind = self.link.kind
        text = f"{_ip(self.namespace)} link add {self.link.name} mtu {self.link.mtu}"
        text += f" address {self.link.mac}" if self.link.mac else ""
        if isinstance(kind, Veth):
            assert self.peer is not None
            mac = f" address {self.peer.mac}" if self.peer.mac else ""
            return (
                f"{text} type veth peer name {kind.peer} netns {kind.peer_namespace} mtu"
                f" {self.peer.mtu}{mac}"
            )
        if isinstance(kind, Vxlan):
            flags = "nolearning proxy l2miss l3miss"
            target = "" if self.namespace == HOST else f" netns {self.namespace}"
            name_and_mtu = text.removeprefix(_ip(self.namespace) + " link add ")
            device = (
                f"{name_and_mtu}{target} type vxlan id {kind.vni} local {kind.local} dstport"
                f" {kind.port} {flags}"
            )
            return f"{_ip(kind.socket)} link add {device}"
        if isinstance(kind, Tap):
            return f"{_ip(self.namespace)} tuntap add {self.link.name} mode tap"
        assert isinstance(kind, Bridge)
        return f"{text} type bridge"


class RemoveLink(msgspec.Struct, frozen=True):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{_ip(self.namespace)} link delete {self.name}"


class SetLink(msgspec.Struct, frozen=True, kw_only=True):
    """Changes the fields that are not None."""

    namespace: str
    name: str
    mtu: int | None = None
    mac: MacAddress | None = None
    master: str | None = None
    """An empty string takes the link out of its bridge."""
    port: BridgePort | None = None
    up: bool | None = None

    def __str__(self) -> str:
        words = []
        if self.mtu is not None:
            words.append(f"mtu {self.mtu}")
        if self.mac is not None:
            words.append(f"address {self.mac}")
        if self.master is not None:
            words.append(f"master {self.master}" if self.master else "nomaster")
        if self.port is not None:
            settings = msgspec.structs.asdict(self.port)
            words += [
                "type bridge_slave",
                *(f"{key} {'on' if is_on else 'off'}" for key, is_on in settings.items()),
            ]
        if self.up is not None:
            words.append("up" if self.up else "down")
        return f"{_ip(self.namespace)} link set {self.name} {' '.join(words)}"


class AddAddress(msgspec.Struct, frozen=True):
    namespace: str
    device: str
    address: Interface

    def __str__(self) -> str:
        return f"{_ip(self.namespace)} address add {self.address} dev {self.device}"


class RemoveAddress(msgspec.Struct, frozen=True):
    namespace: str
    device: str
    address: Interface

    def __str__(self) -> str:
        return f"{_ip(self.namespace)} address delete {self.address} dev {self.device}"


class AddNeighbour(msgspec.Struct, frozen=True):
    """Adds or replaces."""

    namespace: str
    neighbour: Neighbour

    def __str__(self) -> str:
        n = self.neighbour
        return (
            f"{_ip(self.namespace)} neighbour replace {n.address} lladdr {n.mac} dev {n.device} nud"
            " permanent"
        )


class RemoveNeighbour(msgspec.Struct, frozen=True):
    namespace: str
    neighbour: Neighbour

    def __str__(self) -> str:
        return (
            f"{_ip(self.namespace)} neighbour delete {self.neighbour.address} dev"
            f" {self.neighbour.device}"
        )


class AddForwarding(msgspec.Struct, frozen=True):
    """Adds or replaces."""

    namespace: str
    entry: ForwardingEntry

    def __str__(self) -> str:
        e = self.entry
        where = "master static" if e.vtep is None else f"dst {e.vtep} self permanent"
        return f"{_bridge(self.namespace)} fdb replace {e.mac} dev {e.device} {where}"


class RemoveForwarding(msgspec.Struct, frozen=True):
    namespace: str
    entry: ForwardingEntry

    def __str__(self) -> str:
        e = self.entry
        where = "master" if e.vtep is None else f"dst {e.vtep} self"
        return f"{_bridge(self.namespace)} fdb delete {e.mac} dev {e.device} {where}"


class AddRoute(msgspec.Struct, frozen=True):
    """Adds or replaces."""

    namespace: str
    route: Route

    def __str__(self) -> str:
        return f"{_ip(self.namespace)} route replace {_route(self.route)}"


class RemoveRoute(msgspec.Struct, frozen=True):
    namespace: str
    route: Route

    def __str__(self) -> str:
        return f"{_ip(self.namespace)} route delete {_route(self.route)}"


class AddRule(msgspec.Struct, frozen=True):
    namespace: str
    rule: Rule

    def __str__(self) -> str:
        return f"{_ip(self.namespace)} rule add {_rule(self.rule)}"


class RemoveRule(msgspec.Struct, frozen=True):
    namespace: str
    rule: Rule

    def __str__(self) -> str:
        return f"{_ip(self.namespace)} rule delete {_rule(self.rule)}"


class SetSysctl(msgspec.Struct, frozen=True):
    namespace: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"{_enter(self.namespace)}sysctl -w {self.key}={self.value}"


class ReplaceTable(msgspec.Struct, frozen=True):
    """Replaces a whole table in one transaction: no packet meets half a table. (The adapter keeps
    unchanged parts, see `linux.nft`.)"""

    namespace: str
    table: Table

    def __str__(self) -> str:
        head = f"{self.table.family} {self.table.name}"
        script = f"add table {head}\ndelete table {head}\ntable {head} {{\n{text(self.table)}\n}}"
        return f"{_enter(self.namespace)}nft -f - <<END\n{script}\nEND"


class ChangeTable(msgspec.Struct, frozen=True):
    """Changes some of a table's elements, in one transaction. If the kernel's elements are not as
    expected, the adapter writes the whole table."""

    namespace: str
    table: Table
    """The table after the change."""
    changes: Changes

    def __str__(self) -> str:
        script = "\n".join(commands(self.table, self.changes))
        return f"{_enter(self.namespace)}nft -f - <<END\n{script}\nEND"


class RemoveTable(msgspec.Struct, frozen=True):
    namespace: str
    family: str
    name: str

    def __str__(self) -> str:
        return f"{_enter(self.namespace)}nft delete table {self.family} {self.name}"


Operation = (
    AddNamespace | RemoveNamespace | AddLink | RemoveLink | SetLink | AddAddress | RemoveAddress | AddNeighbour
    | RemoveNeighbour | AddForwarding | RemoveForwarding | AddRoute | RemoveRoute | AddRule | RemoveRule | SetSysctl
    | ReplaceTable | ChangeTable | RemoveTable
)  # fmt: skip


def _ip(namespace: str) -> str:
    return "ip" if namespace == HOST else f"ip -n {namespace}"


def _bridge(namespace: str) -> str:
    return "bridge" if namespace == HOST else f"bridge -n {namespace}"


def _enter(namespace: str) -> str:
    return "" if namespace == HOST else f"ip netns exec {namespace} "


def _route(r: Route) -> str:
    is_default = r.destination.prefixlen == 0
    family = ["-6"] if is_default and r.destination.version == 6 else []
    words = [*family, "default" if is_default else str(r.destination)]
    words += ["via", str(r.via)] if r.via else []
    words += ["dev", r.device]
    words += ["src", str(r.source)] if r.source else []
    words += ["table", str(r.table)] if r.table != MAIN_TABLE else []
    words += ["onlink"] if r.onlink else []
    return " ".join(words)


def _rule(r: Rule) -> str:
    words = ["priority", str(r.priority)]
    words += ["fwmark", f"{r.mark:#x}/{r.mask:#x}"] if r.mask else []
    words += ["iif", r.input_device] if r.input_device else []
    words += ["ipproto", str(r.protocol)] if r.protocol is not None else []
    if r.source_ports is not None:
        first, last = r.source_ports
        words += ["sport", str(first) if first == last else f"{first}-{last}"]
    return " ".join([*words, "lookup", str(r.table)])
