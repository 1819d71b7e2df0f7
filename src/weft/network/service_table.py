"""Which backends new connections go to: by virtual address, and by port published in the mesh.

A service's backends stand on a ring of slots; the number of slots is a power of two. The kernel
counts new connections around the ring and skips empty slots, so that each backend gets its turn
exactly, and one backend more or less changes one slot (`render/services.py` has the rules). Backend
number i has the slot whose number is i with its bits reversed, which keeps the empty slots apart
from each other. The ring grows and shrinks so that among TRIES slots in a row at least one is
taken. For a service with affinity, the kernel finds the slot by the client's address; each slot is
taken, as `affinity.py` says.

Until a task is gone, it is reached by the ports that it was started with, whatever its service
publishes meanwhile: during a rolling update one port may lead to two targets.

A table is made from the previous one: backends keep their numbers, the newest or the last backend
replaces a removed one, and unchanged services are the same objects. Equal networks may therefore
have tables that differ in the order of backends, and in nothing else.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address

import msgspec

from weft.model.addresses import Port
from weft.model.assignment import EndpointRecord, NetworkView, ServiceRecord
from weft.model.host_ports import HostPort
from weft.model.ids import ServiceId
from weft.model.service import PublishedPort
from weft.network import affinity
from weft.network.memo import exchanged

TRIES = 8
"""The number of slots that a new connection tries in a row; all but the last may be empty."""


class Published(HostPort):
    """A port that every host publishes. With an address, only the hosts that have that address do
    so."""

    __slots__ = ()


Destination = IPv4Address | Published
"""The destination of a caller's packets: a virtual address, or a port published in the mesh."""


class Backend(msgspec.Struct, frozen=True, order=True):
    """A target of new connections."""

    address: IPv4Address
    port: Port | None = None
    """None: the port that the caller asked for."""
    weight: int = 1
    """Turns in each round."""


class Service(msgspec.Struct, frozen=True):
    id: ServiceId
    name: str
    backends: tuple[Backend, ...] = ()
    """By number, each as often as its weight, or as many slots as it has. Empty: new connections
    are refused."""
    size: int = 0
    """The number of slots of the ring."""
    by_client: bool = False
    """Whether the client's address decides on the slot."""

    def slots(self) -> Iterator[tuple[int, Backend]]:
        bits = self.size.bit_length() - 1
        for number, backend in enumerate(self.backends):
            yield _reversed_bits(number, bits), backend


Services = Mapping[Destination, Service]


Owners = Mapping[Destination, ServiceId]


class ServiceTable(msgspec.Struct, frozen=True):
    """The services of one network."""

    virtual: Services = {}
    """By virtual address, ascending."""
    published: Services = {}
    """By protocol, port and address, ascending."""
    owners: tuple[Owners, Owners] = ({}, {})
    """The owners of `virtual` and of `published`."""
    view: NetworkView | None = None
    """The view that the table was made from."""


EMPTY = ServiceTable()


def service_table(view: NetworkView, before: ServiceTable = EMPTY) -> ServiceTable:
    """`before`: the network's previous table, which is returned if nothing has changed."""
    records, endpoints = view.services, view.endpoints
    old = before.view or NetworkView(view.definition, {}, {})
    gone, come = exchanged(old.endpoints, endpoints)
    lost, new = exchanged(old.services, records)
    changed = {e.service for e in (*gone, *come) if e.service is not None}
    changed |= {record.id for record in (*lost, *new)}
    if not changed:
        return before
    owners = before.owners
    if lost or new:
        owners = (_virtual_addresses(records), _published_ports(records))
        changed |= _new_owners(owners, before)
    backends: dict[ServiceId, list[EndpointRecord]] = {id: [] for id in changed}
    for endpoint in endpoints.values():
        if endpoint.serving and endpoint.service in changed:
            backends[endpoint.service].append(endpoint)
    changes = {id: _Backends(records[id], found) for id, found in backends.items() if id in records}
    virtual, published = (
        _services(some, changes, known)
        for some, known in zip(owners, (before.virtual, before.published), strict=True)
    )
    return ServiceTable(virtual, published, owners, view)


def _virtual_addresses(records: Mapping[ServiceId, ServiceRecord]) -> Owners:
    found = [(r.virtual_address, r.id) for r in records.values() if r.virtual_address]
    return dict(sorted(found))


def _published_ports(records: Mapping[ServiceId, ServiceRecord]) -> Owners:
    """If two services have the same port, a service that publishes the port now precedes one whose
    older tasks still have it; then the lower id decides."""
    found: dict[Published, ServiceId] = {}
    ordered = [records[id] for id in sorted(records)]
    current = ((record.id, record.ports) for record in ordered)
    former = ((record.id, ports) for record in ordered for ports in record.former.values())
    for id, ports in (*current, *former):
        for port in _targets(ports):
            found.setdefault(port, id)
    ascending = sorted(found, key=lambda it: (*it.key, int(it.address or 0)))
    return {destination: found[destination] for destination in ascending}


def _targets(ports: Iterable[PublishedPort]) -> dict[Published, Port]:
    return {
        Published(port.protocol, port.published, port.host_address): port.target
        for port in ports
        if port.mode == "ingress" and port.published
    }


def _new_owners(owners: tuple[Owners, Owners], before: ServiceTable) -> set[ServiceId]:
    """Services that have taken a destination over from another service."""
    known = {**before.virtual, **before.published}
    return {
        id
        for some in owners
        for destination, id in some.items()
        if destination in known and known[destination].id != id
    }


class _Backends:
    """The backends of one service: its serving tasks, each with the ports that it was started
    with."""

    def __init__(self, record: ServiceRecord, serving: Sequence[EndpointRecord]) -> None:
        self.record, self._serving = record, serving
        self._targets = _targets(record.ports)
        self._former = {version: _targets(ports) for version, ports in record.former.items()}

    def at(self, destination: Destination) -> list[Backend]:
        if isinstance(destination, IPv4Address):
            return sorted({Backend(e.address.ip) for e in self._serving})
        targets = ((e, self._former.get(e.version, self._targets)) for e in self._serving)
        return sorted({
            Backend(e.address.ip, ports[destination]) for e, ports in targets if destination in ports
        })  # fmt: skip


def _services(owners: Owners, changes: Mapping[ServiceId, _Backends], before: Services) -> Services:
    """`changes`: the services that may have changed."""
    found: dict[Destination, Service] = {}
    for destination, id in owners.items():
        old, changed = before.get(destination), changes.get(id)
        if changed is None:
            found[destination] = before[destination]
            continue
        new = balanced(changed.record, changed.at(destination), old)
        found[destination] = old if old is not None and old == new else new
    return found


# --- one service


def balanced(
    record: ServiceRecord, backends: Sequence[Backend], before: Service | None = None
) -> Service:
    """`backends`: all different. `before`: the previous service at the destination."""
    if record.affinity:
        return _by_client(record, backends)
    if before is not None and before.by_client:
        before = None
    wanted = [backend for backend in backends for _ in range(backend.weight)]
    numbered = _numbered(wanted, before.backends if before else ())
    return Service(
        record.id, record.name, numbered, _size(len(numbered), before.size if before else 0)
    )


def _by_client(record: ServiceRecord, backends: Sequence[Backend]) -> Service:
    """Does not depend on the past, so that all hosts agree. During a rolling update a task may have
    two ports: only its address counts."""
    at = {backend.address: backend for backend in backends}
    size = affinity.ring_size(len(at))
    chosen = affinity.owners(list(at), size)
    taken = list(at.values())
    return Service(record.id, record.name, tuple(taken[i] for i in chosen), size, by_client=True)


def _numbered(wanted: Sequence[Backend], before: Sequence[Backend]) -> tuple[Backend, ...]:
    """The wanted backends, which keep their previous numbers as far as possible."""
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
    """A ring keeps its size as long as it has room and at least one in TRIES slots is taken: then
    at least `before / TRIES` numbers are used, and their slots are TRIES apart."""
    if count == 0:
        return 0
    if count <= before <= count_in_use(count) * TRIES:
        return before
    return 1 << (count - 1).bit_length()


def count_in_use(count: int) -> int:
    """The largest power of two that is not above the count: so many backends stand at equal
    distances."""
    return 1 << (count.bit_length() - 1)


def _reversed_bits(number: int, bits: int) -> int:
    return int(f"{number:0{bits}b}"[::-1], 2) if bits else 0
