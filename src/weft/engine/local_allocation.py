"""Chooses what this node's own networks and containers get: subnets, addresses, and ports of the
host. Pure, with Docker's texts for what cannot be had."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from weft.errors import Exhausted, Forbidden, InvalidArgument, OperationFailed
from weft.model.addresses import Address, Port, Protocol
from weft.model.bridge_network import BridgeNetwork
from weft.model.host_ports import ANY_IPV6, HostPort, HostPorts
from weft.model.network import Pool
from weft.model.service import PublishedPort

POOLS = (
    *(IPv4Network((f"172.{second}.0.0", 16)) for second in range(17, 32)),
    *IPv4Network("192.168.0.0/16").subnets(new_prefix=20),
)
"""Docker's default pools for networks of one node, in its order."""
EPHEMERAL = range(32768, 61000)
"""Ports of the host for containers whose users name none: the kernel's own range, as in Docker."""
OVERLAP = "invalid pool request: Pool overlaps with other one on this address space"
Check = Callable[[Protocol, Port, Address | None], None]
Places = tuple[Address | None, ...]
"""Where on the host a port is published: as `PublishedPort.host_address`, one or one of each
family."""


def choose_subnet(taken: Iterable[IPv4Network]) -> IPv4Network:
    """The first of the pools that overlaps nothing. Raises `Exhausted`."""
    held = tuple(taken)
    for pool in POOLS:
        if not any(pool.overlaps(other) for other in held):
            return pool
    raise Exhausted("all predefined address pools have been fully subnetted")


def check_subnet(subnet: IPv4Network, taken: Iterable[IPv4Network]) -> None:
    """Raises `Forbidden` for a subnet that the user named and another network has."""
    if any(subnet.overlaps(other) for other in taken):
        raise Forbidden(OVERLAP)


def choose_address(
    network: BridgeNetwork, held: Collection[IPv4Address], wanted: IPv4Address | None
) -> IPv4Address:
    """The lowest free address, in the range that the user named if there is one; or the address
    that the user wants. Raises `InvalidArgument`, `Forbidden` or `Exhausted`."""
    pool = network.spec.pool or Pool(network.subnet)
    blocked = {network.gateway, *pool.reserved.values(), *held}
    if wanted is not None:
        if wanted not in network.subnet:
            raise InvalidArgument(
                f"invalid endpoint settings:\nno configured subnet contains IP address {wanted}"
            )
        ends = (network.subnet.network_address, network.subnet.broadcast_address)
        if wanted in blocked or wanted in ends:
            raise Forbidden("Address already in use")
        return wanted
    span = pool.ip_range or network.subnet
    first, last = int(span.network_address), int(span.broadcast_address)
    if span.network_address == network.subnet.network_address:
        first += 1
    if span.broadcast_address == network.subnet.broadcast_address:
        last -= 1
    taken = {int(address) for address in blocked}
    found = next((number for number in range(first, last + 1) if number not in taken), None)
    if found is None:
        raise Exhausted(
            f"no available IPv4 addresses on this network's address pools: {network.name}"
            f" ({network.id})"
        )
    return IPv4Address(found)


class WantedPort(PublishedPort, frozen=True):
    """A port of a container, and the ports of the host of which one is to lead to it."""

    last: Port = 0
    """The last port of the range that begins with `published`; 0: there is no range."""


class _Held:
    """Ports of the host that are taken, and how far each search for a free one has come."""

    def __init__(self, taken: Iterable[HostPort]) -> None:
        self._ports = HostPorts.of(taken)
        self._searches: dict[tuple[range, Protocol, Places], Iterator[Port]] = {}

    def add(self, port: HostPort) -> None:
        self._ports.count(port, 1)

    def has(self, wanted: HostPort) -> bool:
        return self._ports.has(wanted)

    def untried(self, numbers: range, protocol: Protocol, places: Places) -> Iterator[Port]:
        """Goes on where the last search ended: what was taken then is taken still."""
        return self._searches.setdefault((numbers, protocol, places), iter(numbers))


def choose_ports(
    wanted: Sequence[PublishedPort],
    binding: IPv4Address | None,
    taken: Iterable[HostPort],
    check: Check,
    has_ipv6: bool = False,
) -> tuple[PublishedPort, ...]:
    """All the ports, or none. A port that is wanted under one number gets it before others choose
    theirs. `binding`: the host's address for ports that name none. `taken`: by other containers, by
    the swarm, by the daemon. `check`: raises `OperationFailed` if a program of the host has the
    port. `has_ipv6`: a port that names no address is open in both families. Raises
    `OperationFailed`."""
    held = _Held(taken)
    chosen: dict[int, list[PublishedPort]] = {}
    for place in sorted(range(len(wanted)), key=lambda place: len(_numbers(wanted[place])) > 1):
        port, numbers = wanted[place], _numbers(wanted[place])
        places = _places(port, binding, has_ipv6)
        choose = _free_port if len(numbers) > 1 else _own_port
        number = choose(port, numbers, held, places, check)
        chosen[place] = []
        for address in places:
            held.add(HostPort(port.protocol, number, address))
            chosen[place].append(
                PublishedPort(
                    target=port.target,
                    published=number,
                    protocol=port.protocol,
                    mode="host",
                    name=port.name,
                    host_address=address,
                )
            )
    return tuple(port for place in range(len(wanted)) for port in chosen[place])


def _places(port: PublishedPort, binding: IPv4Address | None, has_ipv6: bool) -> Places:
    named = port.host_address
    if isinstance(named, IPv6Address):
        if not has_ipv6:
            raise OperationFailed(
                f"cannot publish port {port.target}/{port.protocol} at [{named}]: the container has"
                " no network with IPv6 that leads outside"
            )
        return (named,)
    if named is not None and not named.is_unspecified:
        return (named,)
    if binding is not None or named is not None or not has_ipv6:
        return (binding,)
    return None, ANY_IPV6


def _numbers(port: PublishedPort) -> range:
    """The host's ports that will do."""
    if not port.published:
        return EPHEMERAL
    last = port.last if isinstance(port, WantedPort) else 0
    return range(port.published, max(port.published, last) + 1)


def _own_port(
    port: PublishedPort,
    numbers: range,
    held: _Held,
    places: Places,
    check: Check,
) -> Port:
    """The only one that will do."""
    for address in places:
        if held.has(HostPort(port.protocol, numbers[0], address)):
            raise taken_port(address, numbers[0])
        check(port.protocol, numbers[0], address)
    return numbers[0]


def taken_port(address: Address | None, number: Port) -> OperationFailed:
    """The error for a port of the host that another container publishes."""
    return OperationFailed(
        f"Bind for {address or '0.0.0.0'}:{number} failed: port is already allocated"
    )


def _free_port(
    port: PublishedPort,
    numbers: range,
    held: _Held,
    places: Places,
    check: Check,
) -> Port:
    """The first that is free in all places."""
    for number in held.untried(numbers, port.protocol, places):
        if any(held.has(HostPort(port.protocol, number, address)) for address in places):
            continue
        try:
            for address in places:
                check(port.protocol, number, address)
        except OperationFailed:
            continue
        return number
    if port.published:
        raise OperationFailed("all ports are allocated")
    raise OperationFailed(
        f"cannot publish a port for {port.protocol}: every ephemeral port is in use"
    )
