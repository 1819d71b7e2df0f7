"""The network part of a kernel as a value: namespaces with their links, neighbours, forwarding
entries, routes, rules, tables.

`plan` makes the desired state, `linux` reads the actual one, `diff` compares them. Both values are
equal when nothing needs doing: a field that the plan leaves open is None in the desired state, and
the comparison ignores it.

In our own namespaces everything is ours. In the host's namespace only the objects named in
`network/ownership.py` are ours; the reader leaves the others out.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

import msgspec

from weft.model.addresses import Address, Interface, MacAddress, Port, Subnet, Vni
from weft.network.service_table import Services

HOST = "host"
"""Name of the namespace in which the daemon itself runs. All others are files below
/run/docker/netns."""

MAIN_TABLE = 254

Field = Literal[
    "ipv4_addr", "ipv6_addr", "ipv6_bits", "inet_proto", "inet_service", "ether_addr", "mark",
    "slot", "verdict",
]  # fmt: skip
"""`ipv6_bits`: an IPv6 address in the middle of a message, which nft takes for a number."""


class Veth(msgspec.Struct, frozen=True, tag=True):
    """One end of a veth pair. Making one end also makes the other; a link is declared at both ends,
    and made once."""

    peer_namespace: str | None = None
    """None in an actual state: reading it from the kernel is expensive, and nothing needs it."""
    peer: str | None = None


class Bridge(msgspec.Struct, frozen=True, tag=True):
    pass


class Vxlan(msgspec.Struct, frozen=True, tag=True):
    """A VXLAN device, always with nolearning, proxy, l2miss and l3miss."""

    vni: Vni
    local: IPv4Address
    port: Port
    socket: str = HOST
    """The namespace in which the device is made and its UDP socket stays. The kernel does not
    report it: an actual state says HOST, and the comparison then ignores the field."""


class Tap(msgspec.Struct, frozen=True, tag=True):
    """An Ethernet interface whose other end is a process. The interface stays when the process
    ends. It never resolves addresses by ARP (NOARP)."""


class BridgePort(msgspec.Struct, frozen=True):
    """How a bridge treats a port. The defaults are those of a port that was just added."""

    isolated: bool = False
    """The port may talk to the bridge, but to no other isolated port."""
    learning: bool = True
    """The bridge learns from a frame that the frame's sender is behind this port."""
    flood: bool = True
    """The bridge sends frames for unknown MACs out of this port."""
    locked: bool = False
    """Frames enter by this port only if the bridge was told that their sender is behind it."""
    hairpin: bool = False
    """Frames that came in by the port may leave by it."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kind: Veth | Bridge | Vxlan | Tap
    mtu: int
    mac: MacAddress | None = None
    """None: the kernel chooses."""
    master: str | None = None
    addresses: frozenset[Interface] = frozenset()
    """Without the link-local ones of IPv6, which the kernel makes."""
    up: bool = True
    port: BridgePort = BridgePort()
    """The settings as a bridge port, for a link with a master."""


class Neighbour(msgspec.Struct, frozen=True):
    """A permanent entry: `address` is at `mac` on `device`."""

    device: str
    address: Address
    mac: MacAddress


class ForwardingEntry(msgspec.Struct, frozen=True):
    """The path of frames for `mac`. With `vtep`: a permanent FDB entry of a VXLAN device, to the
    host `vtep`. Without `vtep`: a static FDB entry of a bridge, out of its port `device`."""

    device: str
    mac: MacAddress
    vtep: IPv4Address | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    destination: Subnet
    device: str
    via: Address | None = None
    source: Address | None = None
    table: int = MAIN_TABLE
    onlink: bool = False
    """The gateway counts as on the link, whatever the addresses say."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A policy routing rule. Absent selectors are None or 0."""

    priority: int
    table: int
    mark: int = 0
    mask: int = 0
    input_device: str | None = None
    protocol: int | None = None
    """IP protocol number."""
    source_ports: tuple[Port, Port] | None = None
    """The first and the last of a range."""


Value = IPv4Address | IPv6Address | str | int
"""One field of an element. A protocol, a MAC and a verdict are text; a port, a mark and a slot are
numbers."""
Entry = tuple[Value, ...]


class SetType(msgspec.Struct, frozen=True):
    """The types of the elements of an nftables set, in nft's names. Only the elements of a map have
    a value."""

    key: tuple[Field, ...]
    value: tuple[Field, ...] = ()
    typeof: str = ""
    """The same type by examples, if a field has no type name of its own: `slot`, `ipv6_bits`."""


class ElementSet(msgspec.Struct, frozen=True):
    """An nftables set, or map."""

    type: SetType
    elements: Mapping[Entry, Entry] = {}
    """Values by key; empty values for a set that is not a map."""


class Table(msgspec.Struct, frozen=True):
    """An nftables table: a fixed part as text, and a changing part as values. If only the values
    differ, elements are changed; otherwise the table is written anew, in one transaction. In an
    actual state: the table as it was last applied, if the kernel still has it so, else an empty
    table."""

    family: str
    name: str
    body: str = ""
    """The fixed part of the text between the table's braces: chains with hooks, and the chains that
    these go to."""
    sets: Mapping[str, ElementSet] = {}
    """Sets by name, with the elements that do not come from `services`."""
    services: Services = {}
    start: int = 0
    """Where this table's rings of services begin: callers with few connections each must not all
    begin with the same task."""
    unknown: bool = False
    """In an actual state, of an empty table: nobody can tell whether it was changed. It is written
    anew, which disturbs nothing."""


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    links: Mapping[str, Link] = msgspec.field(default_factory=dict)
    neighbours: frozenset[Neighbour] = frozenset()
    """Permanent entries only."""
    forwarding: frozenset[ForwardingEntry] = frozenset()
    """For VXLAN devices only permanent entries with a remote host, for bridges static entries."""
    routes: frozenset[Route] = frozenset()
    """Without the routes that the kernel makes for addresses."""
    rules: frozenset[Rule] = frozenset()
    """Without the three rules that every namespace has."""
    sysctls: Mapping[str, str] = msgspec.field(default_factory=dict)
    """For example `net.ipv4.ip_forward`: `1`. An actual state has only the keys that were asked
    for."""
    tables: Mapping[tuple[str, str], Table] = msgspec.field(default_factory=dict)
    """By (family, name)."""


class KernelState(msgspec.Struct, frozen=True):
    namespaces: Mapping[str, Namespace]

    def __getitem__(self, name: str) -> Namespace:
        return self.namespaces[name]
