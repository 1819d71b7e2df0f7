"""IPv6 on this node's own networks: what `bridge.py` does for IPv4, for networks that have both.

    previous hop   a process in a container, or a client of a published port
    this hop       the same links; the host routes, translates and masquerades
    next hop       another container, a process of this host, or the outside

A container has IPv6 on its interfaces to networks that have it, and on no other; the bridge too. It
gets its address and its default route from here: it takes no router's word (`accept_ra`), nor does
the bridge. Nobody asks for a second whether an address is free (`nodad`): the book knows.

A container sends only from its own address and from the link-local one that belongs to its MAC, and
speaks only for these in neighbour discovery; it is never heard as a router (RFC 6105). From `::` it
may only ask whether such an address is free.

The host must forward IPv6 for this (`net.ipv6.conf.all.forwarding`), as Docker sets it too. A host
that forwards takes no router's word any more, unless it is told to: `linux/sysctl.py` tells each
interface that did before.

Published ports lead here from the host's addresses other than `::1` and the link-local ones. `::1`
cannot: the kernel has no `route_localnet` for IPv6, and takes an answer to `::1` from `lo` alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Address, IPv6Interface, IPv6Network

from weft.model.addresses import link_local_of
from weft.model.bridge_network import BridgeNetwork
from weft.model.host_ports import ANY_IPV6, HostPort, HostPorts
from weft.model.ids import NetworkId
from weft.model.local_sandbox import BridgeEndpoint, LocalSandbox
from weft.network.bridge_rules import Reach, forward_chain, outward, translation
from weft.network.kernel_state import (
    HOST,
    ElementSet,
    Entry,
    Namespace,
    Neighbour,
    Route,
    SetType,
    Table,
)
from weft.network.ownership import BRIDGE_TABLE

DEFAULT_ROUTE = IPv6Network("::/0")
PUBLISHED, PUBLISHED_AT = "bridge-ports-ipv6", "bridge-ports-ipv6-at"
"""As in `bridge.py`."""
SENDERS, SPOKESMEN = "senders-ipv6", "spokesmen-ipv6"
"""The sets of MACs with their addresses: as senders of packets, and as the target that a message of
neighbour discovery is about."""
PORTS = SetType(("inet_proto", "inet_service"), ("ipv6_addr", "inet_service"))
PORTS_AT = SetType(("ipv6_addr", "inet_proto", "inet_service"), ("ipv6_addr", "inet_service"))
_SENDERS = SetType(("ether_addr", "ipv6_addr"))
_TARGET = "@th,64,128"
"""The target address in a neighbour solicitation or advertisement (RFC 4861 sections 4.3, 4.4), for
which nft before 1.0.7 has no name."""
_SPOKESMEN = SetType(("ether_addr", "ipv6_bits"), typeof=f"ether saddr . {_TARGET}")
_LOCAL = "ip6 daddr != { ::1, fe80::/10 } fib daddr type local"
Networks = Mapping[NetworkId, BridgeNetwork]


def gateway_of(network: BridgeNetwork) -> IPv6Interface | None:
    return network.ipv6_gateway_interface


def bridge_sysctls(network: BridgeNetwork) -> dict[str, str]:
    name = network.device
    if network.ipv6_subnet is None:
        return {f"net.ipv6.conf.{name}.disable_ipv6": "1"}
    return {
        "net.ipv6.conf.all.forwarding": "1",
        f"net.ipv6.conf.{name}.disable_ipv6": "0",
        f"net.ipv6.conf.{name}.accept_ra": "0",
    }


# --- a container


def is_off(sysctls: Mapping[str, str]) -> bool:
    """Whether the user has switched IPv6 off in the container, which then gets no address."""
    return sysctls.get("net.ipv6.conf.all.disable_ipv6") == "1"


def outlet(place: LocalSandbox, networks: Networks) -> BridgeEndpoint | None:
    """The endpoint with the default route of IPv6, to which ports are published: on the network
    whose name comes first, as for IPv4. None if no network that has IPv6 leads outside."""
    outward = [
        (network.name, endpoint)
        for endpoint in place.endpoints
        if (network := networks.get(endpoint.network)) is not None
        and not network.spec.internal
        and endpoint.ipv6_address is not None
    ]
    return min(outward, key=lambda pair: pair[0])[1] if outward else None


def connect(
    place: LocalSandbox, endpoint: BridgeEndpoint, network: BridgeNetwork
) -> Iterator[Namespace]:
    """The endpoint's IPv6; `bridge.py` makes its links."""
    address, device = endpoint.ipv6_address, f"eth{endpoint.number}"
    if address is None:
        return
    wanted = {f"net.ipv6.conf.{device}.disable_ipv6": "0", f"net.ipv6.conf.{device}.accept_ra": "0"}
    sysctls = {key: place.sysctls.get(key, value) for key, value in wanted.items()}
    yield Namespace(name=place.key, sysctls=sysctls)
    neighbour = Neighbour(network.device, address.ip, endpoint.mac)
    yield Namespace(name=HOST, neighbours=frozenset({neighbour}))


def way_out(place: LocalSandbox, networks: Networks) -> Iterator[Namespace]:
    endpoint = outlet(place, networks)
    gateway = networks[endpoint.network].ipv6_gateway if endpoint is not None else None
    if endpoint is not None and gateway is not None:
        route = Route(destination=DEFAULT_ROUTE, via=gateway, device=f"eth{endpoint.number}")
        yield Namespace(name=place.key, routes=frozenset({route}))


# --- the host's rules


def _having(bridges: Sequence[BridgeNetwork]) -> list[Reach]:
    return [
        Reach(each, each.ipv6_subnet, each.ipv6_gateway)
        for each in bridges
        if each.ipv6_subnet is not None and each.ipv6_gateway is not None
    ]


def frame_rules(bridges: Sequence[BridgeNetwork]) -> tuple[str, ...]:
    """Of the guard at the bridges' ports; what they do not accept is dropped."""
    if not _having(bridges):
        return ()
    spoken = f"ether saddr . {_TARGET}"
    return (
        "icmpv6 type { nd-router-advert, nd-redirect } drop",
        f"icmpv6 type nd-neighbor-advert {spoken} != @{SPOKESMEN} drop",
        f"ip6 saddr :: icmpv6 type nd-neighbor-solicit {spoken} @{SPOKESMEN} accept",
        f"ether type ip6 ether saddr . ip6 saddr @{SENDERS} accept",
    )


def senders(places: Sequence[LocalSandbox], networks: Networks) -> dict[str, ElementSet]:
    if not _having(list(networks.values())):
        return {}
    own: dict[Entry, Entry] = {
        (endpoint.mac, address): ()
        for place in places
        for endpoint in place.endpoints
        if endpoint.ipv6_address is not None
        for address in (endpoint.ipv6_address.ip, link_local_of(endpoint.mac))
    }
    return {SENDERS: ElementSet(_SENDERS, own), SPOKESMEN: ElementSet(_SPOKESMEN, own)}


def tables(
    bridges: Sequence[BridgeNetwork], places: Sequence[LocalSandbox], own: HostPorts
) -> dict[tuple[str, str], Table]:
    """`own`: as in `bridge.rules`."""
    having = _having(bridges)
    if not having:
        return {}
    published = translation("ip6", (PUBLISHED, PUBLISHED_AT), _LOCAL, _LOCAL)
    passing = forward_chain([reach.network for reach in having])
    body = "\n".join((passing, *published, outward("ip6", having)))
    networks = {network.id: network for network in bridges}
    table = Table("ip6", BRIDGE_TABLE, body, _ports(places, networks, own))
    return {("ip6", BRIDGE_TABLE): table}


def _ports(
    places: Sequence[LocalSandbox], networks: Networks, own: HostPorts
) -> dict[str, ElementSet]:
    """A port on which the daemon listens is published in neither family."""
    everywhere: dict[Entry, Entry] = {}
    somewhere: dict[Entry, Entry] = {}
    for place in places:
        way_in = outlet(place, networks)
        target = way_in.ipv6_address if way_in is not None else None
        for port in place.ports if target is not None else ():
            at, key = port.host_address, port.host_port.key
            if target is None or not isinstance(at, IPv6Address) or own.has(HostPort(*key)):
                continue
            if at == ANY_IPV6:
                everywhere.setdefault(key, (target.ip, port.target))
            else:
                somewhere.setdefault((at, *key), (target.ip, port.target))
    return {
        PUBLISHED: ElementSet(PORTS, everywhere),
        PUBLISHED_AT: ElementSet(PORTS_AT, somewhere),
    }
