"""Rules for VXLAN and ESP between hosts on the underlay: packets of the swarm's hosts come in,
VXLAN from strangers does not.

    previous hop   the wire, from another host's overlay.py or encryption.py
    this hop       the host's first hook: which host sent the packet, and for which network?
    next hop       the VXLAN device's socket, or the ESP engine

A VXLAN datagram is not signed: a sender that reaches a host's socket can put a frame into any plain
network. So a host takes datagrams for its networks from known hosts only, and only at its own data
path address. A container's datagram would leave with its host's address, which is known. So
containers may send neither VXLAN nor ESP to a host of the swarm, their own included. Other uses of
the same port are left alone: a VXLAN of the host's own with another VNI, a container's VXLAN to
somewhere else.

A datagram costs one look-up, however many hosts there are; each host that shares a network with
this one costs one element. An attacker who can forge underlay addresses gets past these rules: a
plain network is as private as the underlay, and an encrypted network does not need the rules. VXLAN
and ESP bypass connection tracking, which gives a quarter more new connections per second (decision
21). Only packets from or to this host's address do so: forwarded ones may need tracking for NAT.
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
    definitions: Sequence[NetworkDefinition],
    hosts: ElementSet,
    facts: NodeFacts,
    port: Port,
    bridges: Sequence[str] = (),
) -> Namespace:
    """`definitions`: the networks on this host; `hosts`: the hosts that share one of them; `port`:
    VXLAN's UDP port; `bridges`: those of this node's own networks."""
    own = facts.data_path_address
    inward = ", ".join(f'"{name}"' for name in (GATEWAY_BRIDGE, INGRESS_LEG, *bridges))
    containers = f"iifname {{ {inward} }} goto from-containers"
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
    """A match on the VNI: the three octets behind the first four of the VXLAN header, bits 96 to
    119 from the UDP header (RFC 7348). `vnis`: at least one."""
    return f"@th,96,24 {{ {', '.join(map(str, vnis))} }}"


Places = frozenset[tuple[NodeId, int]]
"""Nodes, each with its address as a number."""


def places(view: NetworkView, before: Places | None = None) -> Places:
    """The hosts on a network. `before`: the previous result, which is returned if nothing has
    changed."""
    found = frozenset((endpoint.node, int(endpoint.vtep)) for endpoint in view.endpoints.values())
    return before if before == found else found


def hosts(places: Iterable[Places], facts: NodeFacts) -> ElementSet:
    """The hosts that share a network with this one."""
    others = {number for some in places for node, number in some if node != facts.node}
    return ElementSet(HOSTS, {(IPv4Address(number),): () for number in sorted(others)})


def _strangers(definitions: Sequence[NetworkDefinition]) -> list[str]:
    vnis = sorted(segment.vni for definition in definitions for segment in definition.segments)
    return [f"{vni_in(vnis)} fib daddr type local drop"] if vnis else []
