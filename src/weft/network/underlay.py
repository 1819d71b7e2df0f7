"""What hosts send each other on the underlay: VXLAN and ESP. Theirs is let in, nobody else's.

    previous hop   the wire, from another host's overlay.py or encryption.py
    this hop       the host's first hook: by whom is it, and for which network?
    next hop       the VXLAN device's socket, or the ESP engine

A VXLAN datagram is not signed: whoever brings one to a host's socket puts a frame into any plain
network. So a datagram for a network of ours is taken from known hosts only, and only at this host's
data path address. A container's would leave with its host's address, which is known: so containers
send neither VXLAN nor ESP to a host of the swarm, their own included. What others use the same port
for is left alone: a VXLAN of the host's own with another number, a container's to somewhere else.

One look-up for a datagram, however many hosts there are; one element for each host that shares a
network with this one. Somebody who can forge the addresses of the underlay gets past this: a plain
network is as private as the underlay, an encrypted one is not in need of it.
Both are without connection tracking: a quarter more new connections per second (decision 21).
Only those from or to this host's address: what it forwards may need tracking for its NAT.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from weft.model.addresses import Port
from weft.model.assignment import NetworkDefinition, NetworkView
from weft.model.ids import NodeId
from weft.model.sandbox import GATEWAY_BRIDGE, NodeFacts
from weft.network import nft
from weft.network.kernel_state import HOST, ElementSet, Namespace, SetType, Table
from weft.network.ownership import INGRESS_LEG, UNDERLAY_TABLE

HOSTS = SetType(("ipv4_addr",))


def datagrams(
    definitions: Sequence[NetworkDefinition], hosts: ElementSet, facts: NodeFacts, port: Port
) -> Namespace:
    """`definitions`: of the networks that are on this host; `hosts`: with which it shares them.
    `port`: VXLAN's."""
    own = facts.data_path_address
    containers = f'iifname {{ "{GATEWAY_BRIDGE}", "{INGRESS_LEG}" }} goto from-containers'
    body = "\n".join(
        (
            nft.chain("from-containers", "ip daddr @hosts drop", "fib daddr type local drop"),
            nft.chain(
                "vxlan-in",
                containers,
                f"ip saddr @hosts ip daddr {own} notrack accept",
                *_strangers(definitions),
            ),
            nft.chain("esp-in", containers, f"ip daddr {own} notrack"),
            nft.base_chain(
                "underlay-in",
                "filter",
                "prerouting",
                nft.RAW,
                f"udp dport {port} goto vxlan-in",
                "ip protocol esp goto esp-in",
            ),
            nft.base_chain(
                "underlay-out",
                "filter",
                "output",
                nft.RAW,
                f"ip saddr {own} udp dport {port} notrack",
                f"ip saddr {own} ip protocol esp notrack",
            ),
        )
    )
    table = Table("ip", UNDERLAY_TABLE, body, {"hosts": hosts})
    return Namespace(name=HOST, tables={("ip", UNDERLAY_TABLE): table})


def vni_in(vnis: Sequence[int]) -> str:
    """The VNI is the three octets behind the first four of the VXLAN header: bits 96 to 119 from
    the UDP header (RFC 7348). `vnis`: at least one."""
    return f"@th,96,24 {{ {', '.join(map(str, vnis))} }}"


Places = frozenset[tuple[NodeId, int]]
"""Nodes, and their addresses as numbers."""


def places(view: NetworkView, before: Places | None = None) -> Places:
    """Of all hosts on a network. `before`: what this was until now; it is given back if nothing has
    changed."""
    found = frozenset((endpoint.node, int(endpoint.vtep)) for endpoint in view.endpoints.values())
    return before if before == found else found


def hosts(places: Iterable[Places], facts: NodeFacts) -> ElementSet:
    """Those with which this one shares a network."""
    others = {number for some in places for node, number in some if node != facts.node}
    return ElementSet(HOSTS, {(IPv4Address(number),): () for number in sorted(others)})


def _strangers(definitions: Sequence[NetworkDefinition]) -> list[str]:
    vnis = sorted(segment.vni for definition in definitions for segment in definition.segments)
    return [f"{vni_in(vnis)} fib daddr type local drop"] if vnis else []
