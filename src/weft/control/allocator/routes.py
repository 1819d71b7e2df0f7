"""Hosts' routes: what no overlay is laid over if it can be helped.

In a container an overlay goes before the way out, so a subnet that a host has a route to elsewhere is
hidden from the containers of an overlay with the same addresses. It breaks nothing else. So routes
are a wish and never an obstacle: an automatic choice keeps away from them while there is something
left, from narrow ones longest (`subnets.choose`); a subnet that a user chose is had, and a warning
names the hosts. One host whose route covers the whole pool (a VPN), or a worker that lies, can refuse
networks to nobody.

    agent      worth_telling     at most `MOST_ROUTES` of a host
    manager    known             of hosts that are not down, and of this one
               hidden            what a network hides, in words
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network
from typing import NamedTuple

from weft.model.network import Segment
from weft.model.node import Node, NodeState
from weft.model.state import ClusterState

MOST_ROUTES = 256
"""Of one host; of more the widest private ones, in which overlays are. A manager reads no more."""
MOST_NAMED = 3
"""Hosts in one warning."""
PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
"""RFC 1918."""


class HostRoute(NamedTuple):
    host: str
    """As a warning names it."""
    subnet: IPv4Network


def worth_telling(routes: Iterable[IPv4Network]) -> tuple[str, ...]:
    """The default route leads everywhere and claims nothing."""
    claims = {route for route in routes if route.prefixlen}
    chosen = heapq.nsmallest(MOST_ROUTES, claims, key=_rank)
    return tuple(map(str, sorted(chosen)))


def known(state: ClusterState, own: Sequence[IPv4Network] = ()) -> list[HostRoute]:
    """`own`: of this host. What is no IPv4 subnet concerns no overlay."""
    found: list[HostRoute] = []
    for node in sorted(state.nodes.values(), key=_name):
        if node.status.state is not NodeState.DOWN:
            texts = node.routes[:MOST_ROUTES]
            found += (HostRoute(_name(node), route) for text in texts for route in _subnet(text))
    told = {route.subnet for route in found}
    found += (HostRoute("this host", route) for route in own if route not in told)
    return [route for route in found if route.subnet.prefixlen]


def hidden(segments: Sequence[Segment], routes: Sequence[HostRoute]) -> Iterator[str]:
    """A sentence for each subnet that overlaps routes of hosts."""
    for subnet in (segment.subnet for segment in segments):
        over = [route for route in routes if subnet.overlaps(route.subnet)]
        hosts = list(dict.fromkeys(f"{route.host} ({route.subnet})" for route in over))
        if hosts:
            names, rest = ", ".join(hosts[:MOST_NAMED]), len(hosts) - MOST_NAMED
            others = f" and {rest} more" if rest > 0 else ""
            yield (
                f"subnet {subnet} overlaps routes of {names}{others}: "
                "containers on this network cannot reach what is there"
            )


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
