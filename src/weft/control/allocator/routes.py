"""Routes of hosts, which overlay subnets should not overlap if that can be avoided.

In a container, the routes to its overlays take precedence over the default route. So a subnet that
a host has a route to is hidden from the containers of an overlay with the same addresses; nothing
else breaks. Routes are therefore a preference, never an obstacle. An automatic choice avoids them
while other subnets are left, and gives up wide routes first (`subnets.choose`). A subnet that a
user chose is granted, with a warning that names the hosts. So a host whose route covers the whole
pool (a VPN), or a worker that lies, cannot block any network.

    agent      worth_telling     at most `MOST_ROUTES` of a host
    manager    claimed           by hosts that are not down, and by this host
               hidden            what a network hides, in words
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Network

from weft.model.network import Segment
from weft.model.node import Node, NodeState
from weft.model.state import ClusterState

MOST_ROUTES = 256
"""Most routes of one host. If it has more, the widest private ones count, since overlays are
private. A manager reads no more."""
MOST_NAMED = 3
"""Most hosts named in one warning."""
PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
"""RFC 1918."""


def worth_telling(routes: Iterable[IPv4Network]) -> tuple[str, ...]:
    """The routes to report to the manager. The default route is left out: it leads everywhere."""
    claims = {route for route in routes if route.prefixlen}
    chosen = heapq.nsmallest(MOST_ROUTES, claims, key=_rank)
    return tuple(map(str, sorted(chosen)))


def claimed(state: ClusterState, own: Sequence[IPv4Network] = ()) -> set[IPv4Network]:
    """Routes of hosts that are not down, and of this host (`own`). Texts that are no IPv4 subnet
    are skipped."""
    return {route for route in (*_told(state).values(), *own) if route.prefixlen}


def hidden(
    state: ClusterState, segments: Sequence[Segment], own: Sequence[IPv4Network] = ()
) -> Iterator[str]:
    """One sentence for each subnet that overlaps routes of hosts. `own`: routes of this host."""
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
    """Each reported subnet once: a thousand hosts of one network report the same."""
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
