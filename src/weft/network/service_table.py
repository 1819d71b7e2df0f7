"""Which backends new connections go to: by virtual address, and by port published in the mesh.

A service's backends stand on a ring of slots, whose number is a power of two. The kernel counts new
connections around the ring and skips empty slots, so that each backend gets its turn exactly, and
one backend more or less is one slot: `render/services.py` has the rules. Backend number i has the
slot whose number is i with its bits reversed, which keeps the empty slots apart from each other;
the ring grows and shrinks so that among TRIES slots in a row one is taken.

A table is made from the one before it: backends keep their numbers, what is gone is replaced by the
newest or by the last one, and what did not change is the same object. Equal networks may therefore
have tables that differ in the order of backends, and in nothing else.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

import msgspec

from weft.model.addresses import Port, Protocol
from weft.model.assignment import EndpointRecord, NetworkView, ServiceRecord
from weft.model.ids import ServiceId

TRIES = 8
"""Slots that a new connection may find empty, one after the other, and one more."""


class Published(NamedTuple):
    """A port of every host."""

    protocol: Protocol
    port: Port


Destination = IPv4Address | Published
"""What a caller asks for: a virtual address, or a port published in the mesh."""


class Backend(msgspec.Struct, frozen=True, order=True):
    """Where a new connection goes."""

    address: IPv4Address
    port: Port | None = None
    """None: the port that was asked for."""
    weight: int = 1
    """Turns on each round."""


class Service(msgspec.Struct, frozen=True):
    id: ServiceId
    name: str
    backends: tuple[Backend, ...] = ()
    """By number, each as often as its weight. None: new connections are refused."""
    size: int = 0
    """Slots of the ring."""

    def slots(self) -> Iterator[tuple[int, Backend]]:
        bits = self.size.bit_length() - 1
        for number, backend in enumerate(self.backends):
            yield _reversed_bits(number, bits), backend


Services = Mapping[Destination, Service]


class Origin(NamedTuple):
    """What a service's part of a table was made of."""

    record: ServiceRecord
    endpoints: tuple[EndpointRecord, ...]
    """Those that serve."""

    def is_same(self, other: "Origin") -> bool:
        """The very objects: comparing their fields would take longer than using them."""
        mine, others = self.endpoints, other.endpoints
        return (
            self.record is other.record
            and len(mine) == len(others)
            and all(a is b for a, b in zip(mine, others, strict=True))
        )


class ServiceTable(msgspec.Struct, frozen=True):
    """Of one network."""

    virtual: dict[Destination, Service] = {}
    """By virtual address, ascending."""
    published: dict[Destination, Service] = {}
    """By protocol and port, ascending."""
    origins: dict[ServiceId, Origin] = {}


EMPTY = ServiceTable()


def service_table(view: NetworkView, before: ServiceTable = EMPTY) -> ServiceTable:
    """`before`: the network's table until now; it is given back if nothing has changed."""
    origins = _origins(view)
    changed = {id for id, origin in origins.items() if not _is_kept(id, origin, before)}
    if not changed and origins.keys() == before.origins.keys():
        return before
    return ServiceTable(
        _services(_virtual_addresses(origins), origins, changed, before.virtual),
        _services(_published_ports(origins), origins, changed, before.published),
        origins,
    )


class _Offer(NamedTuple):
    service: ServiceId
    target: Port | None


def _virtual_addresses(origins: Mapping[ServiceId, Origin]) -> dict[Destination, _Offer]:
    records = (origin.record for origin in origins.values())
    found = [
        (r.virtual_address, _Offer(r.id, None)) for r in records if r.virtual_address is not None
    ]
    return dict(sorted(found))


def _published_ports(origins: Mapping[ServiceId, Origin]) -> dict[Destination, _Offer]:
    """Of two services with one port the one whose id comes first has it."""
    found: dict[Published, _Offer] = {}
    for id in sorted(origins):
        for port in origins[id].record.ports:
            if port.mode == "ingress" and port.published:
                found.setdefault(Published(port.protocol, port.published), _Offer(id, port.target))
    return {destination: found[destination] for destination in sorted(found)}


def _services(
    offers: Mapping[Destination, _Offer], origins: Mapping[ServiceId, Origin], changed: set[ServiceId],
    before: Mapping[Destination, Service],
) -> dict[Destination, Service]:  # fmt: skip
    found: dict[Destination, Service] = {}
    for destination, (id, target) in offers.items():
        old = before.get(destination)
        if old is not None and old.id == id and id not in changed:
            found[destination] = old
            continue
        record, endpoints = origins[id]
        backends = sorted({Backend(e.address.ip, target) for e in endpoints})
        new = balanced(record, backends, old)
        found[destination] = old if old == new else new
    return found


def _origins(view: NetworkView) -> dict[ServiceId, Origin]:
    serving: dict[ServiceId, list[EndpointRecord]] = {}
    for endpoint in view.endpoints.values():
        if endpoint.serving and endpoint.service is not None:
            serving.setdefault(endpoint.service, []).append(endpoint)
    return {id: Origin(record, tuple(serving.get(id, ()))) for id, record in view.services.items()}


def _is_kept(id: ServiceId, origin: Origin, before: ServiceTable) -> bool:
    old = before.origins.get(id)
    return old is not None and origin.is_same(old)


# --- one service


def balanced(
    record: ServiceRecord, backends: Sequence[Backend], before: Service | None = None
) -> Service:
    """`backends`: all different. `before`: what was at the destination until now."""
    wanted = [backend for backend in backends for _ in range(backend.weight)]
    numbered = _numbered(wanted, before.backends if before else ())
    return Service(
        record.id, record.name, numbered, _size(len(numbered), before.size if before else 0)
    )


def _numbered(wanted: Sequence[Backend], before: Sequence[Backend]) -> tuple[Backend, ...]:
    """What is wanted, as far as possible with the numbers of before."""
    missing = Counter(wanted)
    numbered: list[Backend | None] = []
    for backend in before:
        stays = missing[backend] > 0
        missing[backend] -= stays
        numbered.append(backend if stays else None)
    fresh = [backend for backend, count in missing.items() for _ in range(count)]
    holes = [number for number, backend in enumerate(numbered) if backend is None]
    for number, backend in zip(holes, fresh, strict=False):
        numbered[number] = backend
    numbered += fresh[len(holes) :]
    for number in holes[len(fresh) :]:
        while numbered and numbered[-1] is None:
            numbered.pop()
        if number < len(numbered):
            numbered[number] = numbered.pop()
    return tuple(backend for backend in numbered if backend is not None)


def _size(count: int, before: int) -> int:
    """A ring is kept as long as it has room, and as one in TRIES slots, or more, is taken: then
    `before / TRIES` numbers are used at least, and the slots of these are TRIES apart."""
    if count == 0:
        return 0
    if count <= before <= count_in_use(count) * TRIES:
        return before
    return 1 << (count - 1).bit_length()


def count_in_use(count: int) -> int:
    """The largest power of two that is not above the count: so many stand at equal distances."""
    return 1 << (count.bit_length() - 1)


def _reversed_bits(number: int, bits: int) -> int:
    return int(f"{number:0{bits}b}"[::-1], 2) if bits else 0
