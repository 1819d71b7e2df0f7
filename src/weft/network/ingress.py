"""The routing mesh on the host that a client contacts: sends traffic for a published port, on any
address of any host, to a serving task.

    previous hop   a client, a process of this host, or a container by way of docker_gwbridge
    this hop       mark, DNAT straight to <task>:<target port>, out of `ing0`, the host's own leg on
                   the ingress bridge
    next hop       overlay.py (br0 in the ingress network's namespace); the way back is reply.py

The client's address is kept. `ing0` has no address: its MAC tells the container by which host a
request came. A mark selects routing table MESH_TABLE. Only that table has the ingress subnet, so a
client may live in the same subnet. A port without a serving task is refused at once. Measurements
of the rules: decision 21.

Why each unusual rule exists:
* Rules 899 and 901: replies from `ing0` carry a mark of their own. Rule 899 forwards them by normal
  routing. The reverse path check does not match `iif ing0`, falls through to 901 and finds the
  ingress subnet behind `ing0`, so any rp_filter setting works.
* New connections from `ing0` are dropped: containers could use `ing0` as a way out, and a reply
  whose connection was forgotten would leave with the container's own address. Untracked packets,
  such as VXLAN, are dropped too. So are packets for 127.0.0.0/8: a reply is for this host's address
  until its translation is undone.
* A packet from a wire must not be for 127.0.0.0/8, even if these addresses are local: the packet
  must not reach a task by such an address, nor be answered from one.
* Only marked packets are translated: a packet that met the port in one hook and not in the other
  would go nowhere.
* ICMP errors `related` to a mesh connection go where its packets go (path MTU discovery in both
  directions).
* Addresses in 127.0.0.0/8 and in the gateway subnet are not unique between hosts. Packets with such
  a source get this host's address before they leave.
"""

from collections.abc import Iterator
from ipaddress import IPv4Network

from weft.model.addresses import mac_for
from weft.model.assignment import EndpointRecord, NetworkDefinition
from weft.model.sandbox import NodeFacts
from weft.network import nft
from weft.network.fragments import cable, table
from weft.network.kernel_state import HOST, MAIN_TABLE, Namespace, Route, Rule
from weft.network.loadbalancer import refusal
from weft.network.overlay import LEG_PREFIX, mtu_of, segment_of
from weft.network.ownership import (
    ANSWER_MARK,
    INGRESS_LEG,
    MESH_PRIORITIES,
    MESH_TABLE,
    REQUEST_MARK,
    overlay_namespace,
)
from weft.network.render.services import PUBLISHED_SETS, published_choice

LEG_PORT = "veth-host"
MARK_MASK = 0xFFFF0000
LOOPBACK = "127.0.0.0/8"
LOCAL = "fib daddr type local"
LOCAL_FROM_OUTSIDE = f"ip daddr != {LOOPBACK} {LOCAL}"


def mesh(
    definition: NetworkDefinition, own: EndpointRecord, facts: NodeFacts, at_one: bool = False
) -> Iterator[Namespace]:
    """The host's part of the mesh; `fragments.serving` adds the services. `own`: the address that
    the manager gave to this host on the ingress network. `at_one`: whether ports are published at
    one address of hosts; without such ports, packets do not pay for their rules."""
    segment = segment_of(definition, own.address.ip)
    if segment is None:
        return
    bridge = (overlay_namespace(definition.id), LEG_PORT, f"br{segment}")
    mac = mac_for(own.address.ip, LEG_PREFIX)
    yield from cable(bridge, (HOST, INGRESS_LEG), mtu_of(definition, facts), mac)
    subnet = definition.segments[segment].subnet
    yield _routing(subnet, facts)
    yield Namespace(
        name=HOST,
        tables=table(_hooks(subnet, facts, at_one), sets=PUBLISHED_SETS, start=int(own.address.ip)),
    )


def _routing(subnet: IPv4Network, facts: NodeFacts) -> Namespace:
    answers, requests, check = MESH_PRIORITIES
    mark, mask = ANSWER_MARK, MARK_MASK
    return Namespace(
        name=HOST,
        routes=frozenset(
            {
                Route(
                    destination=subnet,
                    device=INGRESS_LEG,
                    source=facts.data_path_address,
                    table=MESH_TABLE,
                )
            }
        ),
        rules=frozenset(
            {
                Rule(
                    priority=answers,
                    table=MAIN_TABLE,
                    mark=mark,
                    mask=mask,
                    input_device=INGRESS_LEG,
                ),
                Rule(priority=requests, table=MESH_TABLE, mark=REQUEST_MARK, mask=mask),
                Rule(priority=check, table=MESH_TABLE, mark=mark, mask=mask),
            }
        ),
        sysctls={
            "net.ipv4.ip_forward": "1",
            f"net.ipv4.conf.{INGRESS_LEG}.arp_ignore": "1",
            f"net.ipv4.conf.{INGRESS_LEG}.route_localnet": "1",
            f"net.ipv4.conf.{INGRESS_LEG}.src_valid_mark": "1",
            f"net.ipv6.conf.{INGRESS_LEG}.disable_ipv6": "1",
        },
    )


def _hooks(subnet: IPv4Network, facts: NodeFacts, at_one: bool) -> str:
    leg = f'"{INGRESS_LEG}"'
    request = f"meta mark set {REQUEST_MARK:#x}"
    icmp = f"meta l4proto icmp ct state related ct reply ip saddr {subnet}"
    choice = f"meta mark & {MARK_MASK:#x} == {REQUEST_MARK:#x} goto mesh-choice"
    from_inside = f"ip saddr {{ {LOOPBACK}, {facts.gateway.network} }}"
    return "\n".join(
        (
            refusal("mesh-refuse", "port-unreachable"),
            nft.chain("mesh-choice", *published_choice(at_one)),
            nft.chain(
                "mesh-answers",
                "ct state new,invalid,untracked drop",
                f"ip daddr {LOOPBACK} drop",
                f"meta mark set {ANSWER_MARK:#x} accept",
            ),
            nft.base_chain(
                "mesh-mark-in",
                "filter",
                "prerouting",
                nft.MANGLE,
                f"iifname {leg} goto mesh-answers",
                *_marking(LOCAL_FROM_OUTSIDE, at_one),
                f"{icmp} {request}",
            ),
            nft.base_chain(
                "mesh-mark-out",
                "route",
                "output",
                nft.MANGLE,
                *_marking(LOCAL, at_one),
                f"{icmp} ip daddr {subnet} meta mark set {ANSWER_MARK:#x}",
            ),
            nft.base_chain(
                "mesh-nat-in", "nat", "prerouting", nft.DSTNAT, f"{LOCAL_FROM_OUTSIDE} {choice}"
            ),
            nft.base_chain("mesh-nat-out", "nat", "output", nft.DSTNAT, f"{LOCAL} {choice}"),
            nft.base_chain(
                "mesh-nat-post",
                "nat",
                "postrouting",
                nft.SRCNAT,
                f"oifname {leg} {from_inside} snat ip to {facts.data_path_address}",
            ),
        )
    )


def _marking(local: str, at_one: bool) -> Iterator[str]:
    """Rules that mark requests. `local`: the match for packets to this host. A host that only
    forwards to the address of another is not concerned."""
    for field, end in (("", ""), ("ip daddr . ", "-at"))[: 1 + at_one]:
        port = f"{field}meta l4proto . th dport"
        yield f"{port} @mesh-unserved{end} {local} ct state new goto mesh-refuse"
        yield f"{port} @mesh-published{end} {local} meta mark set {REQUEST_MARK:#x}"
