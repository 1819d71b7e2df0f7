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
Both are without connection tracking: a quarter more new connections per second (dataplane-2.md, B).
Only those from or to this host's address: what it forwards may need tracking for its NAT.
"""

from collections.abc import Sequence

from weft.model.addresses import Port
from weft.model.assignment import NetworkView
from weft.model.sandbox import GATEWAY_BRIDGE, NodeFacts
from weft.network import nft
from weft.network.kernel_state import HOST, ElementSet, Entry, Namespace, SetType, Table
from weft.network.ownership import INGRESS_LEG, UNDERLAY_TABLE

HOSTS = SetType(("ipv4_addr",))


def datagrams(views: Sequence[NetworkView], facts: NodeFacts, port: Port) -> Namespace:
    """`views`: of the networks that are on this host. `port`: VXLAN's."""
    own = facts.data_path_address
    containers = f'iifname {{ "{GATEWAY_BRIDGE}", "{INGRESS_LEG}" }} goto from-containers'
    body = "\n".join((
        nft.chain("from-containers", "ip daddr @hosts drop", "fib daddr type local drop"),
        nft.chain(
            "vxlan-in", containers, f"ip saddr @hosts ip daddr {own} notrack accept", *_strangers(views)
        ),
        nft.chain("esp-in", containers, f"ip daddr {own} notrack"),
        nft.base_chain(
            "underlay-in", "filter", "prerouting", nft.RAW,
            f"udp dport {port} goto vxlan-in", "ip protocol esp goto esp-in",
        ),
        nft.base_chain(
            "underlay-out", "filter", "output", nft.RAW,
            f"ip saddr {own} udp dport {port} notrack", f"ip saddr {own} ip protocol esp notrack",
        ),
    ))  # fmt: skip
    table = Table("ip", UNDERLAY_TABLE, body, {"hosts": ElementSet(HOSTS, _hosts(views, facts))})
    return Namespace(name=HOST, tables={("ip", UNDERLAY_TABLE): table})


def vni_in(vnis: Sequence[int]) -> str:
    """The VNI is the three octets behind the first four of the VXLAN header: bits 96 to 119 from the
    UDP header (RFC 7348). `vnis`: at least one."""
    return f"@th,96,24 {{ {', '.join(map(str, vnis))} }}"


def _hosts(views: Sequence[NetworkView], facts: NodeFacts) -> dict[Entry, Entry]:
    """Those with which this one shares a network."""
    endpoints = (endpoint for view in views for endpoint in view.endpoints.values())
    return {(address,): () for address in sorted({e.vtep for e in endpoints if e.node != facts.node})}


def _strangers(views: Sequence[NetworkView]) -> list[str]:
    vnis = sorted(segment.vni for view in views for segment in view.definition.segments)
    return [f"{vni_in(vnis)} fib daddr type local drop"] if vnis else []
