"""One host's network as a walk sees it: planned, in memory or real, it is the same value.

It differs from a `KernelState`, which has what can be compared and applied. Here is all that a
packet meets: both ends of each veth, interfaces and routes of others, what the kernel itself adds.
Of a namespace that was not read (`whole` false) only the interfaces are known. A walk that comes
there raises `Unread`, and begins again when the namespace was read: nobody reads what no packet
passes.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from ipaddress import IPv4Address
from typing import NamedTuple

import msgspec

from weft.model.addresses import Address, Interface, MacAddress, Subnet
from weft.network.kernel_state import (
    HOST,
    Bridge,
    BridgePort,
    Route,
    Rule,
    Tap,
    Veth,
    Vxlan,
)
from weft.network.trace.nft import Ruleset

LOOPBACK = "lo"


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A network interface."""

    space: str
    name: str
    kind: Veth | Bridge | Vxlan | Tap | None
    """None: hardware, or something else that is not followed."""
    mtu: int
    mac: MacAddress | None = None
    up: bool = True
    master: str | None = None
    addresses: tuple[Interface, ...] = ()
    """The kernel uses the first one as source address."""
    port: BridgePort = BridgePort()
    peer: tuple[str, str] | None = None
    """Namespace and name of the other end of a veth; None if it is not in a namespace of ours."""

    def __str__(self) -> str:
        return f"{self.space}/{self.name}"


class Listener(NamedTuple):
    """A socket that takes packets."""

    protocol: str
    address: Address
    port: int


class Space(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A network namespace."""

    name: str
    devices: Mapping[str, Device]
    whole: bool = True
    local: Sequence[Subnet] = ()
    """Addresses that are delivered here."""
    neighbours: Mapping[tuple[str, Address], MacAddress] = {}
    """Permanent ones, by interface and address."""
    tunnels: Mapping[tuple[str, MacAddress], IPv4Address] = {}
    """By VXLAN interface and MAC: the host behind which it is."""
    ports: Mapping[tuple[str, MacAddress], str] = {}
    """By bridge and MAC: the port behind which it is."""
    routes: Sequence[Route] = ()
    """Also those that the kernel made. Of several to one destination, the best comes first."""
    rules: Sequence[Rule] = ()
    """Without the three that every namespace has."""
    sysctls: Mapping[str, str] = {}
    tables: Mapping[tuple[str, str], Ruleset] = {}
    """nftables by family and name."""
    changed: frozenset[tuple[str, str]] = frozenset()
    """Tables whose rules are not those that were applied."""
    unsure: tuple[str, ...] = ()
    """Tables that were not compared with the kernel's since somebody wrote rules here: they are taken
    to be as they were applied."""
    foreign: tuple[str, ...] = ()
    """Tables of others, which are not followed."""
    bound: frozenset[str] = frozenset()
    """Interfaces whose netdev chains are in force."""
    listeners: frozenset[Listener] | None = None
    """None: not known."""

    def is_local(self, address: Address) -> bool:
        return any(address in network for network in self.local)

    def sysctl(self, key: str) -> str:
        return self.sysctls.get(key, "0")

    @cached_property
    def by_priority(self) -> Sequence[Rule]:
        return sorted(self.rules, key=lambda rule: rule.priority)


class Seals(msgspec.Struct, frozen=True, kw_only=True):
    """What the host's ESP engine has keys for."""

    by_kernel: bool
    """The kernel encrypts what its policies name; otherwise a process does, behind an interface."""
    outbound: Mapping[IPv4Address, int]
    """By host: the SPI of what is sent there."""
    inbound: frozenset[int]
    """SPIs that are opened."""


class Unread(Exception):
    """The walk needs a namespace that was not read."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Host(msgspec.Struct, frozen=True, kw_only=True):
    spaces: Mapping[str, Space]
    seals: Seals | None = None
    """None: the engine is taken to have every key."""

    def space(self, name: str) -> Space:
        """Raises `Unread`."""
        found = self.spaces.get(name)
        if found is None or not found.whole:
            raise Unread(name)
        return found

    def device(self, where: tuple[str, str] | None) -> Device | None:
        if where is None or where[0] not in self.spaces:
            return None
        return self.spaces[where[0]].devices.get(where[1])

    def peer(self, device: Device) -> Device | None:
        """The other end of a veth."""
        return self.device(device.peer)

    def ports(self, bridge: Device) -> list[Device]:
        devices = self.spaces[bridge.space].devices.values()
        return [device for device in devices if device.master == bridge.name]

    def is_wire(self, device: Device) -> bool:
        """Whether the interface leads out of the host: what is behind it is not followed."""
        if device.space != HOST or device.name == LOOPBACK:
            return False
        match device.kind:
            case Bridge():
                return any(self.is_wire(port) for port in self.ports(device))
            case Vxlan():
                return device.master is None
            case Veth():
                return self.peer(device) is None
            case _:
                return True
