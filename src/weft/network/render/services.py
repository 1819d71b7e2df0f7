"""Services as elements and chains of an nftables table, and the rules that look them up.

    a hook             8 times: look the destination up, and jump to its service's chain
    <service's chain>  dnat ip to <destination> . <next slot> map @slots
    the hook again     the slot was empty, so the chain came to its end: once more, with another

Only the slots' elements and, where a ring gets another size, one rule of one chain change with a
service's tasks. The slot is counted by the rule, thus for each service and in each namespace apart
from the others. The hook's last rule goes to slot 0, which is taken as long as there is a backend:
for a packet that others have overtaken, so that it found only empty slots.

A packet that is on its way while elements change finds one of them: if the ring has just got
another size, behind some slots that are empty now. Before Linux 6.17 (commit b2f742c846ca) a
look-up could miss an element that one transaction removes and adds again; the next of the look-ups
finds it. Decision 20.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from types import MappingProxyType

import msgspec

from weft.model.addresses import Protocol
from weft.network.kernel_state import ElementSet, Entry, Field, SetType
from weft.network.service_table import TRIES, Destination, Service

PROTOCOLS: Sequence[Protocol] = ("tcp", "udp", "sctp")
_VERDICT: tuple[Field, ...] = ("verdict",)
_ADDRESS: tuple[Field, ...] = ("ipv4_addr",)
_PORT: tuple[Field, ...] = ("inet_proto", "inet_service")


def _empty(types: Mapping[str, SetType]) -> Mapping[str, ElementSet]:
    return MappingProxyType({name: ElementSet(type_) for name, type_ in types.items()})


def _slots(protocol: Protocol) -> SetType:
    field = f"{protocol} dport"
    example = f"{field} . numgen inc mod 2 : ip daddr . {field}"
    return SetType(("inet_service", "slot"), ("ipv4_addr", "inet_service"), example)


VIRTUAL_SETS = _empty({
    "vip-unserved": SetType(_ADDRESS),
    "vip-services": SetType(_ADDRESS, _VERDICT),
    "vip-slots": SetType(("ipv4_addr", "slot"), _ADDRESS, "ip daddr . numgen inc mod 2 : ip daddr"),
})  # fmt: skip
"""What a table with virtual addresses has, empty."""
PUBLISHED_SETS = _empty({
    "mesh-published": SetType(_PORT),
    "mesh-unserved": SetType(_PORT),
    "mesh-services": SetType(_PORT, _VERDICT),
    **{f"mesh-slots-{protocol}": _slots(protocol) for protocol in PROTOCOLS},
})  # fmt: skip
"""What a table with published ports has, empty. The slots' type names a field of the protocol's
header, so each protocol has a map of its own."""


def virtual_choice() -> list[str]:
    """Rules that translate virtual addresses, for a hook."""
    last = "dnat ip to ip daddr . numgen inc mod 1 map @vip-slots"
    return [*["ip daddr vmap @vip-services"] * TRIES, last]


def published_choice() -> list[str]:
    """Rules that translate published ports, for a chain that sees nothing else."""
    last = (f"dnat ip to {p} dport . numgen inc mod 1 map @mesh-slots-{p}" for p in PROTOCOLS)
    return [*["meta l4proto . th dport vmap @mesh-services"] * TRIES, *last]


class Turn(msgspec.Struct, frozen=True):
    """A service's chain: it sends a new connection to the backend at the next slot, if any."""

    chain: str
    protocol: Protocol | None
    """Of a published port; None: a virtual address."""
    size: int
    """Slots of the ring."""
    service: str
    """Name, as a comment."""

    @property
    def slots(self) -> str:
        """The map's name."""
        return f"mesh-slots-{self.protocol}" if self.protocol else "vip-slots"

    def rule(self, start: int) -> str:
        destination = f"{self.protocol} dport" if self.protocol else "ip daddr"
        offset, mask = self.offset(start)
        turn = f"(numgen inc mod {self.size} offset {offset} & {mask})"
        return f'dnat ip to {destination} . {turn} map @{self.slots} comment "{self.service}"'

    def offset(self, start: int) -> tuple[int, int]:
        """What is added to the count, and which bits of that are the slot's number."""
        mask = self.size - 1
        return start & mask, mask


def turn(destination: Destination, service: Service) -> Turn | None:
    """None: it has no backend."""
    if not service.backends:
        return None
    protocol = None if isinstance(destination, IPv4Address) else destination.protocol
    return Turn(_chain(destination), protocol, service.size, service.name)


def entries(destination: Destination, service: Service) -> Iterator[tuple[str, Entry, Entry]]:
    """The service's elements: set, key, value."""
    if isinstance(destination, IPv4Address):
        key: Entry = (destination,)
        kind, slots, name = "vip", "vip-slots", key
    else:
        key = (destination.protocol, destination.port)
        kind, slots, name = "mesh", f"mesh-slots-{destination.protocol}", (destination.port,)
        yield "mesh-published", key, ()
    if not service.backends:
        yield f"{kind}-unserved", key, ()
        return
    yield f"{kind}-services", key, (f"jump {_chain(destination)}",)
    for slot, backend in service.slots():
        port = () if backend.port is None else (backend.port,)
        yield slots, (*name, slot), (backend.address, *port)


def _chain(destination: Destination) -> str:
    if isinstance(destination, IPv4Address):
        return f"vip-{destination}"
    return f"mesh-{destination.protocol}-{destination.port}"
