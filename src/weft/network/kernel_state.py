"""The network part of a kernel as a value: namespaces with their links, neighbours, forwarding
entries, routes, rules, tables.

`plan` makes the desired one, `linux` reads the actual one, `diff` compares them. Both sides build
values that compare equal when nothing needs doing: a field that the plan does not care about is
None in the desired state and ignored by the comparison.

In our own namespaces everything is ours. In the host's, only what `network/ownership.py` names; the
reader leaves the rest out.
"""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Literal

import msgspec

from weft.model.addresses import MacAddress, Port, Vni
from weft.network.service_table import Services

HOST = "host"
"""Name of the namespace in which the daemon itself runs. All others are files below
/run/docker/netns."""

MAIN_TABLE = 254

Field = Literal["ipv4_addr", "inet_proto", "inet_service", "ether_addr", "mark", "slot", "verdict"]


class Veth(msgspec.Struct, frozen=True, tag=True):
    """One end of a pair. Making it makes the other end too; a link is declared at both ends, and
    made once."""

    peer_namespace: str | None = None
    """None in an actual state: the kernel does not tell it cheaply, and nobody needs it."""
    peer: str | None = None


class Bridge(msgspec.Struct, frozen=True, tag=True):
    pass


class Vxlan(msgspec.Struct, frozen=True, tag=True):
    """Always nolearning, proxy, l2miss, l3miss."""

    vni: Vni
    local: IPv4Address
    port: Port
    socket: str = HOST
    """The namespace that it is made from, in which its UDP socket stays. The kernel does not tell
    it: it does not count in a comparison, and an actual state says HOST."""


class Tap(msgspec.Struct, frozen=True, tag=True):
    """An Ethernet interface whose other end is a process, and stays when the process goes. It never
    asks for MACs (NOARP)."""


class BridgePort(msgspec.Struct, frozen=True):
    """How a bridge treats a port; as it stands, one that has just become one."""

    isolated: bool = False
    """It may talk to the bridge, but to no other isolated port."""
    learning: bool = True
    """The bridge believes that the senders of its frames are behind it."""
    flood: bool = True
    """Frames for MACs that the bridge does not know leave by it."""
    locked: bool = False
    """Only senders come in by it of which the bridge was told that they are behind it."""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    kind: Veth | Bridge | Vxlan | Tap
    mtu: int
    mac: MacAddress | None = None
    """None: whatever the kernel chose."""
    master: str | None = None
    addresses: frozenset[IPv4Interface] = frozenset()
    up: bool = True
    port: BridgePort = BridgePort()
    """Of a link with a master."""


class Neighbour(msgspec.Struct, frozen=True):
    """A permanent entry: `address` is at `mac` on `device`."""

    device: str
    address: IPv4Address
    mac: MacAddress


class ForwardingEntry(msgspec.Struct, frozen=True):
    """Where frames for `mac` go. A permanent FDB entry of a VXLAN device: to the host `vtep`.
    Without one a static FDB entry of a bridge: out of its port `device`."""

    device: str
    mac: MacAddress
    vtep: IPv4Address | None = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    destination: IPv4Network
    device: str
    via: IPv4Address | None = None
    source: IPv4Address | None = None
    table: int = MAIN_TABLE
    onlink: bool = False
    """The gateway is taken to be on the link, whatever the addresses say."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A policy routing rule. Absent selectors are None or 0."""

    priority: int
    table: int
    mark: int = 0
    mask: int = 0
    input_device: str | None = None
    protocol: int | None = None
    """IP protocol number."""
    source_port: Port | None = None


Value = IPv4Address | str | int
"""Of one field of an element: a protocol, a MAC and a verdict are text, a port, a mark and a slot
numbers."""
Entry = tuple[Value, ...]


class SetType(msgspec.Struct, frozen=True):
    """What the elements of an nftables set are made of, as nft names it; those of a map have a
    value."""

    key: tuple[Field, ...]
    value: tuple[Field, ...] = ()
    typeof: str = ""
    """The same by examples, where a field has no name of its own: `slot`."""


class ElementSet(msgspec.Struct, frozen=True):
    """An nftables set, or map."""

    type: SetType
    elements: Mapping[Entry, Entry] = {}
    """Values by key; of a set that is no map they are empty."""


class Table(msgspec.Struct, frozen=True):
    """An nftables table: a fixed part as text, and what changes as values. If only these differ,
    elements are changed; else the table is written anew, in one transaction. In an actual state: as
    it was applied last if that is what the kernel still has, else empty."""

    family: str
    name: str
    body: str = ""
    """The fixed part of what stands between the table's braces: chains with hooks, and what they go
    to."""
    sets: Mapping[str, ElementSet] = {}
    """By name; with what they hold beside what the services are."""
    services: Services = {}
    start: int = 0
    """Where this table's rings of services begin: callers that make few connections each must not
    all begin with one task."""


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    links: Mapping[str, Link] = msgspec.field(default_factory=dict)
    neighbours: frozenset[Neighbour] = frozenset()
    """Permanent ones only."""
    forwarding: frozenset[ForwardingEntry] = frozenset()
    """Of VXLAN devices permanent ones with a remote host only, of bridges static ones."""
    routes: frozenset[Route] = frozenset()
    """Without those that the kernel makes of addresses."""
    rules: frozenset[Rule] = frozenset()
    """Without the three that every namespace has."""
    sysctls: Mapping[str, str] = msgspec.field(default_factory=dict)
    """`net.ipv4.ip_forward`: `1`. In an actual state: those that were asked for."""
    tables: Mapping[tuple[str, str], Table] = msgspec.field(default_factory=dict)
    """By (family, name)."""


class KernelState(msgspec.Struct, frozen=True):
    namespaces: Mapping[str, Namespace]

    def __getitem__(self, name: str) -> Namespace:
        return self.namespaces[name]
