"""Hosts' routes: what no overlay is laid over if it can be helped.

In a container an overlay goes before the way out, so a subnet that a host has a route to elsewhere
is hidden from the containers of an overlay with the same addresses. It breaks nothing else. So
routes are a wish and never an obstacle: an automatic choice keeps away from them while there is
something left, from narrow ones longest (`subnets.choose`); a subnet that a user chose is had, and
a warning names the hosts. One host whose route covers the whole pool (a VPN), or a worker that
lies, can refuse networks to nobody.

    agent      worth_telling     at most `MOST_ROUTES` of a host
    manager    claimed           by hosts that are not down, and by this one
               hidden            what a network hides, in words
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network

from weft.model.network import Segment
from weft.model.node import Node, NodeState
from weft.model.state import ClusterState

MOST_ROUTES = 256
"""Of one host; of more the widest private ones, in which overlays are. A manager reads no more."""
MOST_NAMED = 3
"""Hosts in one warning."""
PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
"""RFC 1918."""


def worth_telling(routes: Iterable[IPv4Network]) -> tuple[str, ...]:
    """The default route leads everywhere and claims nothing."""
    claims = {route for route in routes if route.prefixlen}
    chosen = heapq.nsmallest(MOST_ROUTES, claims, key=_rank)
    return tuple(map(str, sorted(chosen)))


def claimed(state: ClusterState, own: Sequence[IPv4Network] = ()) -> set[IPv4Network]:
    """By hosts that are not down, and by this one (`own`). What is no IPv4 subnet concerns no
    overlay."""
    return {route for route in (*_told(state).values(), *own) if route.prefixlen}


def hidden(
    state: ClusterState, segments: Sequence[Segment], own: Sequence[IPv4Network] = ()
) -> Iterator[str]:
    """A sentence for each subnet that overlaps routes of hosts. `own`: of this one."""
    told = _told(state)
    for subnet in (segment.subnet for segment in segments):
        over = {text: route for text, route in told.items() if _overlap(subnet, route)}
        unsaid = [route for route in own if route not in over.values() and _overlap(subnet, route)]
        hosts = [*_hosts_with(state, over), *(f"this host ({route})" for route in unsaid)]
        if hosts:
            names, rest = ", ".join(hosts[:MOST_NAMED]), len(hosts) - MOST_NAMED
            others = f" and {rest} more" if rest > 0 else ""
            yield (
                f"subnet {subnet} overlaps routes of {names}{others}: "
                "containers on this network cannot reach what is there"
            )


def _told(state: ClusterState) -> dict[str, IPv4Network]:
    """Each subnet once: a thousand hosts of one network tell the same."""
    texts = {text for node in _counting(state) for text in node.routes[:MOST_ROUTES]}
    return {text: route for text in sorted(texts) for route in _subnet(text)}


def _hosts_with(state: ClusterState, routes: Mapping[str, IPv4Network]) -> list[str]:
    if not routes:
        return []
    return [
        f"{_name(node)} ({routes[text]})"
        for node in sorted(_counting(state), key=_name)
        for text in dict.fromkeys(node.routes[:MOST_ROUTES])
        if text in routes
    ]


def _counting(state: ClusterState) -> Iterator[Node]:
    return (node for node in state.nodes.values() if node.status.state is not NodeState.DOWN)


def _overlap(subnet: IPv4Network, route: IPv4Network) -> bool:
    return bool(route.prefixlen) and subnet.overlaps(route)


def _name(node: Node) -> str:
    return node.hostname or node.id


def _rank(route: IPv4Network) -> tuple[bool, int, int]:
    outside = not any(route.overlaps(private) for private in PRIVATE)
    return outside, route.prefixlen, int(route.network_address)


def _subnet(text: str) -> tuple[IPv4Network, ...]:
    try:
        return (IPv4Network(text, strict=False),)
    except ValueError:
        return ()
