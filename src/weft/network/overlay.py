"""A network's bridge and its tunnel: namespace `1-<id10>` with br<i> and vxlan<i> per segment, and
the host of each endpoint.

    previous hop   ingress.py, loadbalancer.py, sandbox.py: a frame enters br0 by its veth
    this hop       br0 -> vxlan0, whose neighbour and forwarding entries name the host of each
                   address
    next hop       encryption.py, then the wire; on the other host vxlan0 -> br0 -> sandbox.py

Nothing is learned: br0 knows a port for each MAC of this host, and gives frames for all other MACs
to vxlan0. vxlan0 knows a host for each of these MACs and drops frames for unknown ones. It answers
ARP itself from its permanent neighbours (`proxy`), so broadcast and multicast between hosts do not
exist. The VXLAN device of a plain network is made in the host's namespace and moved: its socket
stays there, and uses the underlay's routing. encryption.py chooses the namespace for an encrypted
network.
"""

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address

import msgspec

from weft.model.addresses import Port, mac_for, overlay_mtu
from weft.model.assignment import EndpointRecord, NetworkDefinition, NetworkView
from weft.model.encryption import DataKey
from weft.model.sandbox import NodeFacts
from weft.network.encryption import socket_namespace
from weft.network.fragments import links
from weft.network.kernel_state import (
    Bridge,
    BridgePort,
    ForwardingEntry,
    Link,
    Namespace,
    Neighbour,
    Vxlan,
)
from weft.network.memo import exchanged
from weft.network.ownership import overlay_namespace

LEG_PREFIX = "02:43"
"""MAC of a host's own leg on the ingress network: this prefix and the address of its load balancer.
The leg itself has no address."""
BRIDGE_PREFIX = "02:44"
"""MAC of an overlay's bridges on one host: this prefix and the address of the host's load balancer.
The MAC must not change with the ports, nor be the same on two hosts."""

QUIET = {
    "net.bridge.bridge-nf-call-arptables": "0",
    "net.bridge.bridge-nf-call-ip6tables": "0",
    "net.bridge.bridge-nf-call-iptables": "0",
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
}
"""Frames pass the bridge without netfilter; there are no router solicitations. A key that the
kernel lacks has the same effect."""


def mtu_of(definition: NetworkDefinition, facts: NodeFacts) -> int:
    """MTU inside the network. It is the same on all hosts; otherwise frames of one host would not
    fit through the interfaces of another, and the sender would not be told. A user's MTU option
    stands for the underlay's MTU, as in Docker Swarm."""
    agreed = min(definition.underlay_mtu or facts.underlay_mtu, facts.underlay_mtu)
    return overlay_mtu(definition.mtu or agreed, definition.encrypted, definition.icv_bits)


def segment_of(definition: NetworkDefinition, address: IPv4Address) -> int | None:
    """Number of the segment that holds the address."""
    return next(
        (i for i, segment in enumerate(definition.segments) if address in segment.subnet), None
    )


def wire(
    definition: NetworkDefinition,
    own: EndpointRecord | None,
    facts: NodeFacts,
    keys: tuple[DataKey, ...],
    port: Port,
) -> Iterator[Namespace]:
    """The network's namespace on this host. `own`: the host's load balancer on the network; `port`:
    VXLAN's UDP port."""
    mtu = mtu_of(definition, facts)
    socket = socket_namespace(definition, facts, keys)
    devices: list[Link] = []
    for i, segment in enumerate(definition.segments):
        mac = mac_for(own.address.ip, BRIDGE_PREFIX) if own else None
        gateway = frozenset({segment.gateway_interface})
        devices.append(Link(name=f"br{i}", kind=Bridge(), mtu=mtu, mac=mac, addresses=gateway))
        if socket is not None:
            tunnel = Vxlan(segment.vni, facts.data_path_address, port, socket)
            devices.append(
                Link(
                    name=f"vxlan{i}",
                    kind=tunnel,
                    mtu=mtu,
                    master=f"br{i}",
                    port=BridgePort(learning=False),
                )
            )
    forward = {"net.ipv4.ip_forward": "1"} if len(definition.segments) > 1 else {}
    yield Namespace(
        name=overlay_namespace(definition.id), links=links(*devices), sysctls=QUIET | forward
    )


# --- which endpoint is behind which host

Entries = tuple[frozenset[Neighbour], frozenset[ForwardingEntry]]
Endpoints = Mapping[str, EndpointRecord]


class Peers(msgspec.Struct, frozen=True):
    """The entries of one network for endpoints behind other hosts."""

    part: Namespace
    origin: tuple[NetworkDefinition, NodeFacts]
    endpoints: Endpoints
    """`part` was made from these endpoints and from `origin`."""


def peers(view: NetworkView, facts: NodeFacts, before: Peers | None = None) -> Peers:
    """Entries for endpoints behind other hosts. `before`: the previous result; only endpoints that
    are not the same objects as before are looked at."""
    definition, endpoints = view.definition, view.endpoints
    origin, name = (definition, facts), overlay_namespace(definition.id)
    if before is None or before.origin != origin:
        neighbours, forwarding = _entries(endpoints.values(), definition, facts)
        return Peers(
            Namespace(name=name, neighbours=neighbours, forwarding=forwarding), origin, endpoints
        )
    changed = [e for some in exchanged(before.endpoints, endpoints) for e in some]
    addresses = {int(endpoint.address) for endpoint in changed}
    gone, come = (
        _entries(
            [e for e in all_.values() if int(e.address) in addresses] if addresses else (),
            definition,
            facts,
        )
        for all_ in (before.endpoints, endpoints)
    )
    if gone == come:
        return Peers(before.part, origin, endpoints)
    part = Namespace(
        name=name,
        neighbours=before.part.neighbours - gone[0] | come[0],
        forwarding=before.part.forwarding - gone[1] | come[1],
    )
    return Peers(part, origin, endpoints)


def _entries(
    endpoints: Iterable[EndpointRecord], definition: NetworkDefinition, facts: NodeFacts
) -> Entries:
    """`endpoints`: for each address, all endpoints with that address or none."""
    neighbours, forwarding = [], []
    single = len(definition.segments) == 1
    for endpoint in _remote(endpoints, facts):
        segment = 0 if single else segment_of(definition, endpoint.address.ip)
        if segment is None:
            continue
        device, mac = f"vxlan{segment}", endpoint.mac
        neighbours.append(Neighbour(device, endpoint.address.ip, mac))
        forwarding.append(ForwardingEntry(device, mac, endpoint.vtep))
        if definition.ingress and endpoint.task is None:
            forwarding.append(
                ForwardingEntry(device, mac_for(endpoint.address.ip, LEG_PREFIX), endpoint.vtep)
            )
    return frozenset(neighbours), frozenset(forwarding)


def _remote(endpoints: Iterable[EndpointRecord], facts: NodeFacts) -> list[EndpointRecord]:
    """One endpoint for each address behind another host; of two with the same address, the serving
    one."""
    chosen: dict[IPv4Address, EndpointRecord] = {}
    for endpoint in endpoints:
        if endpoint.node == facts.node:
            continue
        other = chosen.setdefault(endpoint.address.ip, endpoint)
        if (endpoint.serving, endpoint.id) > (other.serving, other.id):
            chosen[endpoint.address.ip] = endpoint
    return list(chosen.values())
