"""Services as elements and chains of an nftables table, and the rules that look them up.

    a hook             8 times: look the destination up, and jump to its service's chain
    <service's chain>  dnat ip to <destination> . <next slot> map @slots
    the hook again     the slot was empty, so the chain came to its end: try the next slot

When a service's tasks change, only the slots' elements change, and one rule of one chain if the
ring gets another size. That rule counts the slots, so each service has its own count in each
namespace. The hook's last rule uses slot 0, which is taken as long as there is a backend. It serves
a packet that found only empty slots because other packets advanced the count meanwhile.

A packet in flight while elements change finds one of them. If the ring has just changed its size,
the packet may first meet slots that are empty now. Before Linux 6.17 (commit b2f742c846ca) a
look-up could miss an element that one transaction removes and adds again; the next look-up finds
it. Decision 20.

The rule of a service with affinity takes the slot from the client's address instead of the count:
`jhash ip saddr mod <slots>`, with a seed that all hosts know. The same slot is tried again then, and
all slots are taken.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from types import MappingProxyType

import msgspec

from weft.model.addresses import Protocol
from weft.network.kernel_state import ElementSet, Entry, Field, SetType
from weft.network.service_table import TRIES, Destination, Service

SEED = 0x77656674
"""Seed of the hash of clients' addresses. A client who knows it can choose its task, which does no
harm."""
PROTOCOLS: Sequence[Protocol] = ("tcp", "udp", "sctp")
_VERDICT: tuple[Field, ...] = ("verdict",)
_ADDRESS: tuple[Field, ...] = ("ipv4_addr",)
_PORT: tuple[Field, ...] = ("inet_proto", "inet_service")
_PORT_AT: tuple[Field, ...] = (*_ADDRESS, *_PORT)


def _empty(types: Mapping[str, SetType]) -> Mapping[str, ElementSet]:
    return MappingProxyType({name: ElementSet(type_) for name, type_ in types.items()})


def _slots(protocol: Protocol) -> SetType:
    field = f"{protocol} dport"
    example = f"{field} . numgen inc mod 2 : ip daddr . {field}"
    return SetType(("inet_service", "slot"), ("ipv4_addr", "inet_service"), example)


def _slots_at(protocol: Protocol) -> SetType:
    field = f"ip daddr . {protocol} dport"
    key: tuple[Field, ...] = ("ipv4_addr", "inet_service", "slot")
    return SetType(key, ("ipv4_addr", "inet_service"), f"{field} . numgen inc mod 2 : {field}")


VIRTUAL_SETS = _empty({
    "vip-unserved": SetType(_ADDRESS),
    "vip-services": SetType(_ADDRESS, _VERDICT),
    "vip-slots": SetType(("ipv4_addr", "slot"), _ADDRESS, "ip daddr . numgen inc mod 2 : ip daddr"),
})  # fmt: skip
"""The sets of a table with virtual addresses, empty."""
PUBLISHED_SETS = _empty({
    "mesh-published": SetType(_PORT),
    "mesh-unserved": SetType(_PORT),
    "mesh-services": SetType(_PORT, _VERDICT),
    **{f"mesh-slots-{protocol}": _slots(protocol) for protocol in PROTOCOLS},
    "mesh-published-at": SetType(_PORT_AT),
    "mesh-unserved-at": SetType(_PORT_AT),
    "mesh-services-at": SetType(_PORT_AT, _VERDICT),
    **{f"mesh-slots-at-{protocol}": _slots_at(protocol) for protocol in PROTOCOLS},
})  # fmt: skip
"""The sets of a table with published ports, empty. The slots' type names a field of the protocol's
header, so each protocol has a map of its own. Ports that are published at one address of a host
have sets of their own, with the address in the key."""


def virtual_choice() -> list[str]:
    """Rules that translate virtual addresses, for a hook."""
    last = "dnat ip to ip daddr . numgen inc mod 1 map @vip-slots"
    return [*["ip daddr vmap @vip-services"] * TRIES, last]


def published_choice(at_one: bool) -> list[str]:
    """Rules that translate published ports, for a chain that sees no other packets. `at_one`:
    whether some are published at one address only."""
    port, turn = "meta l4proto . th dport", "numgen inc mod 1"
    last = (f"dnat ip to {p} dport . {turn} map @mesh-slots-{p}" for p in PROTOCOLS)
    rules = [*[f"{port} vmap @mesh-services"] * TRIES, *last]
    if not at_one:
        return rules
    end = (f"dnat ip to ip daddr . {p} dport . {turn} map @mesh-slots-at-{p}" for p in PROTOCOLS)
    return [*[f"ip daddr . {port} vmap @mesh-services-at"] * TRIES, *end, *rules]


class Turn(msgspec.Struct, frozen=True):
    """A service's chain: sends a new connection to the backend at the next slot, if the slot has
    one."""

    chain: str
    protocol: Protocol | None
    """The protocol of a published port; None for a virtual address."""
    size: int
    """The number of slots of the ring."""
    service: str
    """The service's name, written as a comment."""
    at_one: bool = False
    """Whether the port is published at one address only."""
    by_client: bool = False
    """Whether the slot follows from the client's address instead of the count."""

    @property
    def slots(self) -> str:
        """The map's name."""
        if self.at_one:
            return f"mesh-slots-at-{self.protocol}"
        return f"mesh-slots-{self.protocol}" if self.protocol else "vip-slots"

    def rule(self, start: int) -> str:
        destination = f"{self.protocol} dport" if self.protocol else "ip daddr"
        if self.at_one:
            destination = f"ip daddr . {destination}"
        offset, mask = self.offset(start)
        turn = f"(numgen inc mod {self.size} offset {offset} & {mask})"
        if self.by_client:
            turn = f"jhash ip saddr mod {self.size} seed {SEED:#x}"
        return f'dnat ip to {destination} . {turn} map @{self.slots} comment "{self.service}"'

    def offset(self, start: int) -> tuple[int, int]:
        """The offset that is added to the count, and the mask that makes the sum a slot number."""
        mask = self.size - 1
        return start & mask, mask


def turn(destination: Destination, service: Service) -> Turn | None:
    """None if the service has no backend."""
    if not service.backends:
        return None
    port = None if isinstance(destination, IPv4Address) else destination
    return Turn(
        _chain(destination),
        port.protocol if port else None,
        service.size,
        service.name,
        at_one=port is not None and port.address is not None,
        by_client=service.by_client,
    )


def entries(destination: Destination, service: Service) -> Iterator[tuple[str, Entry, Entry]]:
    """The service's elements: set, key, value."""
    if isinstance(destination, IPv4Address):
        key: Entry = (destination,)
        kind, slots, name, end = "vip", "vip-slots", key, ""
    elif destination.address is not None:
        key, name = (destination.address, *destination.key), (destination.address, destination.port)
        kind, slots, end = "mesh", f"mesh-slots-at-{destination.protocol}", "-at"
        yield "mesh-published-at", key, ()
    else:
        key = (destination.protocol, destination.port)
        kind, slots, end = "mesh", f"mesh-slots-{destination.protocol}", ""
        name = (destination.port,)
        yield "mesh-published", key, ()
    if not service.backends:
        yield f"{kind}-unserved{end}", key, ()
        return
    yield f"{kind}-services{end}", key, (f"jump {_chain(destination)}",)
    for slot, backend in service.slots():
        port = () if backend.port is None else (backend.port,)
        yield slots, (*name, slot), (backend.address, *port)


def _chain(destination: Destination) -> str:
    if isinstance(destination, IPv4Address):
        return f"vip-{destination}"
    at = "" if destination.address is None else f"{destination.address}-"
    return f"mesh-{at}{destination.protocol}-{destination.port}"
