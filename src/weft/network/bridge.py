"""This node's own networks: bridges of the host, the containers on them, and published ports.

    previous hop   a process in a container, or a client of a published port
    this hop       the container's eth<k>, its port wbr-<id9><k> on docker0 or br-<id12>; the host
                   routes, translates and masquerades
    next hop       another container, a process of this host, or the outside

A container reaches the containers of its own networks, the host and, unless its networks are
internal, the outside. Between networks, and from the outside, only published ports are open: what
is forwarded to a bridge must belong to a known connection or have been translated. There is no
proxy process: clients keep their addresses. Only two kinds of clients get the bridge's address: a
process of this host that calls 127.0.0.1, and a container, whose answer would otherwise not come
back this way.

A container sends only with its own MAC (its port is locked) and from its own addresses, in IP and
in ARP; other frames, VLAN tags included, do not enter the bridge, and those of IPv6 as
`bridge_ipv6.py` says. Its packets to
127.0.0.0/8 are dropped: `route_localnet` would let them in, and without it a process of the host
could not reach a published port by 127.0.0.1.

The rules are in tables of their own, which nothing of the swarm shares. Where the swarm's mesh
publishes the same port, this host's own container has it here (`own_ports.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network

from weft.model.addresses import mac_for
from weft.model.bridge_network import BridgeNetwork
from weft.model.host_ports import HostPorts
from weft.model.ids import NetworkId
from weft.model.local_sandbox import BridgeEndpoint, LocalSandbox
from weft.network import bridge_ipv6 as ipv6
from weft.network import nft
from weft.network.bridge_rules import Reach, devices, forward_chain, outward, translation
from weft.network.desired import LocalPart
from weft.network.fragments import links
from weft.network.gateway import PORTS, PORTS_AT, SENDERS
from weft.network.ingress import LOCAL, LOCAL_FROM_OUTSIDE, LOOPBACK
from weft.network.kernel_state import (
    HOST,
    Bridge,
    BridgePort,
    ElementSet,
    Entry,
    ForwardingEntry,
    Link,
    Namespace,
    Neighbour,
    Route,
    Table,
    Veth,
)
from weft.network.ownership import (
    BRIDGE_MAC,
    BRIDGE_MESH_TABLE,
    BRIDGE_TABLE,
    INGRESS_LEG,
    LOCAL_PORT_PREFIX,
    local_port,
)
from weft.network.sandbox import SYSCTLS, resolver

DEFAULT_ROUTE = IPv4Network("0.0.0.0/0")
PUBLISHED, PUBLISHED_AT = "bridge-ports", "bridge-ports-at"
"""Maps of published ports to a container's address and port: those on all addresses of the host, and
those on one."""
Networks = Mapping[NetworkId, BridgeNetwork]


def shown(local: LocalPart) -> tuple[BridgeNetwork, ...]:
    """The networks that have a bridge, by its name. The default network gets one with its first
    container, so that a host that runs none has no docker0."""
    used = {endpoint.network for place in local.sandboxes for endpoint in place.endpoints}
    found = (n for n in local.networks if not n.is_default or n.id in used)
    return tuple(sorted(found, key=lambda network: network.device))


def device(network: BridgeNetwork) -> Namespace:
    name = network.device
    link = Link(
        name=name,
        kind=Bridge(),
        mtu=network.spec.mtu,
        mac=mac_for(network.gateway, BRIDGE_MAC),
        addresses=frozenset(filter(None, (network.gateway_interface, ipv6.gateway_of(network)))),
    )
    return Namespace(
        name=HOST,
        links=links(link),
        sysctls={
            "net.ipv4.ip_forward": "1",
            f"net.ipv4.conf.{name}.route_localnet": "1",
            **ipv6.bridge_sysctls(network),
        },
    )


# --- a container


def has_names(place: LocalSandbox, networks: Networks) -> bool:
    """Whether names are answered in the container: on networks that users made."""
    if place.overlays:
        return True
    known = (networks.get(endpoint.network) for endpoint in place.endpoints)
    return any(network is not None and not network.is_default for network in known)


def outlet(place: LocalSandbox, networks: Networks) -> BridgeEndpoint | None:
    """The endpoint with the default route, to which ports are published: on the network whose name
    comes first, as in Docker. None if all networks are internal."""
    outward = [
        (networks[e.network].name, e)
        for e in place.endpoints
        if e.network in networks and not networks[e.network].spec.internal
    ]
    return min(outward, key=lambda pair: pair[0])[1] if outward else None


def connect(place: LocalSandbox, networks: Networks) -> Iterator[Namespace]:
    """All of one container's network but for its overlays, whose fragments lead to the name server
    then (`sandbox.py`)."""
    wanted = place.sysctls
    yield Namespace(
        name=place.key,
        sysctls={key: wanted.get(key, value) for key, value in SYSCTLS.items()},
        tables=resolver() if has_names(place, networks) and not place.overlays else {},
    )
    way_out = outlet(place, networks)
    for endpoint in place.endpoints:
        network = networks.get(endpoint.network)
        if network is not None:
            yield from _attach(place, endpoint, network)
            if endpoint is way_out:
                route = Route(
                    destination=DEFAULT_ROUTE, via=network.gateway, device=f"eth{endpoint.number}"
                )
                yield Namespace(name=place.key, routes=frozenset({route}))
            yield from ipv6.connect(place, endpoint, network)
    yield from ipv6.way_out(place, networks)


def _attach(
    place: LocalSandbox, endpoint: BridgeEndpoint, network: BridgeNetwork
) -> Iterator[Namespace]:
    """The bridge is told which port the MAC is behind and learns nothing, as in
    `fragments.cable`. Where the host filters bridges (`bridge-nf-call-iptables`), the bridge itself
    translates a container's call of its own published port, and must send the frame back."""
    near, far = local_port(place.id, endpoint.number), f"eth{endpoint.number}"
    settings = BridgePort(
        isolated=not network.spec.talks, learning=False, flood=False, locked=True, hairpin=True
    )
    here = Link(
        name=near,
        kind=Veth(place.key, far),
        mtu=network.spec.mtu,
        master=network.device,
        port=settings,
    )
    there = Link(
        name=far,
        kind=Veth(HOST, near),
        mtu=network.spec.mtu,
        mac=endpoint.mac,
        addresses=frozenset(filter(None, (endpoint.address, endpoint.ipv6_address))),
    )
    yield Namespace(
        name=HOST,
        links=links(here),
        forwarding=frozenset({ForwardingEntry(near, endpoint.mac)}),
        neighbours=frozenset({Neighbour(network.device, endpoint.address.ip, endpoint.mac)}),
    )
    yield Namespace(name=place.key, links=links(there))


# --- the host's rules


def rules(
    bridges: Sequence[BridgeNetwork], places: Sequence[LocalSandbox], own: HostPorts
) -> Namespace:
    """`own`: ports on which the daemon listens, which are published for nobody."""
    networks = {network.id: network for network in bridges}
    frames = nft.base_chain(
        "source-guard",
        "filter",
        "prerouting",
        nft.RAW,
        f'iifname != "{LOCAL_PORT_PREFIX}*" accept',
        "ether type ip ether saddr . ip saddr @senders accept",
        "ether type arp ether saddr . arp saddr ip @senders accept",
        *ipv6.frame_rules(bridges),
        "drop",
    )
    having = [Reach(network, network.subnet, network.gateway) for network in bridges]
    published = translation("ip", (PUBLISHED, PUBLISHED_AT), LOCAL_FROM_OUTSIDE, LOCAL)
    parts = (_guard(bridges), forward_chain(bridges), *published)
    body = "\n".join((*parts, outward("ip", having, (LOOPBACK,))))
    senders = {"senders": _senders(places), **ipv6.senders(places, networks)}
    tables = {
        ("bridge", BRIDGE_TABLE): Table("bridge", BRIDGE_TABLE, frames, senders),
        ("ip", BRIDGE_TABLE): Table("ip", BRIDGE_TABLE, body, _ports(places, networks, own)),
        **ipv6.tables(bridges, places, own),
    }
    return Namespace(name=HOST, tables=tables)


def _senders(places: Sequence[LocalSandbox]) -> ElementSet:
    found: dict[Entry, Entry] = {
        (endpoint.mac, endpoint.address.ip): () for place in places for endpoint in place.endpoints
    }
    return ElementSet(SENDERS, found)


def _guard(bridges: Sequence[BridgeNetwork]) -> str:
    """Before connection tracking, so that dropped packets leave no trace."""
    return nft.base_chain(
        "bridge-in",
        "filter",
        "prerouting",
        nft.RAW,
        f"iifname {devices(bridges)} ip daddr {LOOPBACK} drop",
    )


def into_mesh(bridges: Sequence[BridgeNetwork], data_path: IPv4Address) -> Namespace:
    """For containers that call a port of the mesh: other hosts know only this host's address, and
    the mesh's leg has none. In a table of its own, so that entering and leaving a swarm changes no
    rule of the node's own networks. `data_path`: the host's address in the swarm."""
    subnets = ", ".join(str(network.subnet) for network in bridges)
    chain = nft.base_chain(
        "bridge-mesh-post",
        "nat",
        "postrouting",
        nft.SRCNAT,
        f'oifname "{INGRESS_LEG}" ip saddr {{ {subnets} }} snat ip to {data_path}',
    )
    table = Table("ip", BRIDGE_MESH_TABLE, chain)
    return Namespace(name=HOST, tables={("ip", BRIDGE_MESH_TABLE): table})


def _ports(
    places: Sequence[LocalSandbox], networks: Networks, own: HostPorts
) -> dict[str, ElementSet]:
    everywhere: dict[Entry, Entry] = {}
    somewhere: dict[Entry, Entry] = {}
    for place in places:
        way_in = outlet(place, networks)
        for port in place.ports if way_in is not None else ():
            if way_in is None or own.has(port.host_port):
                continue
            key = port.host_port.key
            target = (way_in.address.ip, port.target)
            if port.host_address is None:
                everywhere.setdefault(key, target)
            elif port.host_address.version == 4:
                somewhere.setdefault((port.host_address, *key), target)
    return {
        PUBLISHED: ElementSet(PORTS, everywhere),
        PUBLISHED_AT: ElementSet(PORTS_AT, somewhere),
    }
