"""A network's bridge and its tunnel: namespace `1-<id10>` with br<i> and vxlan<i> per segment, and who is behind which host.

    previous hop   ingress.py, loadbalancer.py, sandbox.py: a frame enters br0 by its veth
    this hop       br0 -> vxlan0, whose neighbour and forwarding entries name the host of each address
    next hop       encryption.py, then the wire; on the other host vxlan0 -> br0 -> sandbox.py

Nothing is learned: br0 knows a port for each MAC of this host, and gives all others to vxlan0, which knows a host for each and drops
what is for nobody. It answers ARP itself from its permanent neighbours (`proxy`), so broadcast and multicast between hosts do not
exist.
The VXLAN device of a plain network is made in the host's namespace and moved, so that its socket, and thus the underlay's
routing, stays there; that of an encrypted one wherever encryption.py says.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address

from weft.model.addresses import mac_for, overlay_mtu
from weft.model.assignment import Assignment, EndpointRecord, NetworkDefinition, NetworkView
from weft.model.sandbox import NodeFacts
from weft.network.encryption import socket_namespace
from weft.network.fragments import links
from weft.network.kernel_state import Bridge, BridgePort, ForwardingEntry, Link, Namespace, Neighbour, Vxlan
from weft.network.ownership import overlay_namespace

LEG_PREFIX = "02:43"
"""MAC of a host's own leg on the ingress network: this and the address of its load balancer. The leg itself has no address."""
BRIDGE_PREFIX = "02:44"
"""MAC of an overlay's bridges on one host: must not change with the ports, nor be the same on two hosts."""

QUIET = {
    "net.bridge.bridge-nf-call-arptables": "0",
    "net.bridge.bridge-nf-call-ip6tables": "0",
    "net.bridge.bridge-nf-call-iptables": "0",
    "net.ipv6.conf.all.disable_ipv6": "1",
    "net.ipv6.conf.default.disable_ipv6": "1",
}
"""Frames pass the bridge without netfilter; no router solicitations. Keys that the kernel lacks mean the same."""


def mtu_of(definition: NetworkDefinition, facts: NodeFacts) -> int:
    """MTU inside the network. The option that a user sets stands for the underlay's MTU, as in the original."""
    return overlay_mtu(definition.mtu or facts.underlay_mtu, definition.encrypted, definition.icv_bits)


def segment_of(definition: NetworkDefinition, address: IPv4Address) -> int | None:
    """Number of the segment that holds the address."""
    return next((i for i, segment in enumerate(definition.segments) if address in segment.subnet), None)


def wire(view: NetworkView, facts: NodeFacts, assignment: Assignment) -> Iterator[Namespace]:
    """The network's namespace on this host."""
    definition = view.definition
    balancer = view.load_balancer(facts.node)
    mtu = mtu_of(definition, facts)
    socket = socket_namespace(definition, facts, assignment.keys)
    devices: list[Link] = []
    for i, segment in enumerate(definition.segments):
        mac = mac_for(balancer.address.ip, BRIDGE_PREFIX) if balancer else None
        gateway = frozenset({segment.gateway_interface})
        devices.append(Link(name=f"br{i}", kind=Bridge(), mtu=mtu, mac=mac, addresses=gateway))
        if socket is not None:
            tunnel = Vxlan(segment.vni, facts.data_path_address, assignment.data_path_port, socket)
            devices.append(Link(name=f"vxlan{i}", kind=tunnel, mtu=mtu, master=f"br{i}", port=BridgePort(learning=False)))
    forward = {"net.ipv4.ip_forward": "1"} if len(definition.segments) > 1 else {}
    yield Namespace(name=overlay_namespace(definition.id), links=links(*devices), sysctls=QUIET | forward)
    if socket is not None:
        yield _peers(view, facts)


def _peers(view: NetworkView, facts: NodeFacts) -> Namespace:
    neighbours, forwarding = [], []
    definition = view.definition
    single = len(definition.segments) == 1
    for endpoint in _remote(view, facts):
        segment = 0 if single else segment_of(definition, endpoint.address.ip)
        if segment is None:
            continue
        device, mac = f"vxlan{segment}", endpoint.mac
        neighbours.append(Neighbour(device, endpoint.address.ip, mac))
        forwarding.append(ForwardingEntry(device, mac, endpoint.vtep))
        if definition.ingress and endpoint.task is None:
            forwarding.append(ForwardingEntry(device, mac_for(endpoint.address.ip, LEG_PREFIX), endpoint.vtep))
    return Namespace(name=overlay_namespace(definition.id), neighbours=frozenset(neighbours), forwarding=frozenset(forwarding))


def _remote(view: NetworkView, facts: NodeFacts) -> list[EndpointRecord]:
    """One endpoint per address that is behind another host; of two with one address the one that serves."""
    chosen: dict[IPv4Address, EndpointRecord] = {}
    for endpoint in view.endpoints.values():
        if endpoint.node == facts.node:
            continue
        other = chosen.setdefault(endpoint.address.ip, endpoint)
        if (endpoint.serving, endpoint.id) > (other.serving, other.id):
            chosen[endpoint.address.ip] = endpoint
    return list(chosen.values())
