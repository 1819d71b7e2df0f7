"""docker_gwbridge: the way out of the cluster, and host-mode ports.

    previous hop   sandbox.py: a packet to the outside, by the container's last interface and its
                   port wgw-<id10>
    this hop       docker_gwbridge, then the host's routing; masqueraded
    next hop       the outside

Every host has the same bridge address and subnet. They are valid on one host only, so no packet may
leave with them. Containers cannot talk to each other here: their ports are isolated, and packets
that come back by the bridge's own address are dropped. A port that the host does not publish cannot
be reached from outside either.

A container sends only with its own MAC (its port is locked) and its own address, and gets only
packets for these: the bridge is told of both and learns nothing. A container's packets to
127.0.0.0/8 are dropped. `route_localnet` would let them in, but without `route_localnet` a process
of the host could not reach a host-mode port by 127.0.0.1. Replies to such a process are for this
host's address until their translation is undone. The guard comes before that, so it does not drop
them.

A container reaches a host-mode port of its own host, even one of its own, by any address of the
host. If `net.bridge.bridge-nf-call-iptables` is 1, which is a setting of the host, the bridge calls
DNAT itself, and it then forwards the frame itself if the packet's route leads back to the bridge:
from one isolated port to another, where it ends (`br_nf_pre_routing_finish`). So packets from the
bridge have routes of their own (GATEWAY_TABLE): to each container by its port, past the bridge. The
packet is then routed by the host, with or without that setting.
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Interface, IPv4Network

from weft.model.addresses import mac_for
from weft.model.sandbox import GATEWAY_BRIDGE, NodeFacts
from weft.model.workload import Resident
from weft.network import nft
from weft.network.fragments import cable, links, table
from weft.network.ingress import LOCAL, LOCAL_FROM_OUTSIDE, LOOPBACK
from weft.network.kernel_state import (
    HOST,
    Bridge,
    ElementSet,
    Entry,
    Link,
    Namespace,
    Neighbour,
    Route,
    Rule,
    SetType,
)
from weft.network.ownership import (
    GATEWAY_PORT_PREFIX,
    GATEWAY_PRIORITY,
    GATEWAY_TABLE,
    INGRESS_LEG,
    gateway_port,
)
from weft.network.render.services import PROTOCOLS

DEFAULT = IPv4Network("0.0.0.0/0")
SENDERS = SetType(("ether_addr", "ipv4_addr"))
HOST_PORTS = "gateway-ports"
"""The map of host-mode ports: protocol and published port to a container's address and port."""
PORTS = SetType(("inet_proto", "inet_service"), ("ipv4_addr", "inet_service"))
HOST_PORTS_AT = "gateway-ports-at"
"""The map of host-mode ports that are published at one address of the host."""
PORTS_AT = SetType(("ipv4_addr", "inet_proto", "inet_service"), ("ipv4_addr", "inet_service"))


def bridge(facts: NodeFacts, residents: Sequence[Resident]) -> Iterator[Namespace]:
    """The bridge and its rules. `residents`: those with a port on the bridge."""
    device = Link(
        name=GATEWAY_BRIDGE,
        kind=Bridge(),
        mtu=facts.underlay_mtu,
        mac=mac_for(facts.gateway.ip),
        addresses=frozenset({facts.gateway}),
    )
    yield Namespace(
        name=HOST,
        links=links(device),
        rules=frozenset(
            {Rule(priority=GATEWAY_PRIORITY, table=GATEWAY_TABLE, input_device=GATEWAY_BRIDGE)}
        ),
        sysctls={
            "net.ipv4.ip_forward": "1",
            f"net.ipv4.conf.{GATEWAY_BRIDGE}.route_localnet": "1",
            f"net.ipv6.conf.{GATEWAY_BRIDGE}.disable_ipv6": "1",
        },
        tables=table("\n".join((_guard(), _rules(facts))), sets=_sets(facts, residents)),
    )


def port(
    facts: NodeFacts, sandbox: str, namespace: str, interface: str, address: IPv4Interface
) -> Iterator[Namespace]:
    """A sandbox's link to the bridge, with its default route. `sandbox`: its id; `interface`: the
    interface's name in `namespace`."""
    outlet, mac = (HOST, gateway_port(sandbox), GATEWAY_BRIDGE), mac_for(address.ip)
    yield from cable(outlet, (namespace, interface), facts.underlay_mtu, mac, address)
    past = Route(destination=IPv4Network(address.ip), device=outlet[1], table=GATEWAY_TABLE)
    yield Namespace(
        name=HOST,
        neighbours=frozenset(
            Neighbour(device, address.ip, mac) for device in (GATEWAY_BRIDGE, past.device)
        ),
        routes=frozenset({past}),
    )
    yield Namespace(
        name=namespace,
        routes=frozenset({Route(destination=DEFAULT, via=facts.gateway.ip, device=interface)}),
    )


def _sets(facts: NodeFacts, residents: Sequence[Resident]) -> dict[str, ElementSet]:
    """The permitted senders on the bridge, and the target of each host-mode port."""
    own = sorted({facts.ingress_gateway.ip, *(sandbox.gateway.ip for sandbox, _ in residents)})
    senders: dict[Entry, Entry] = {(mac_for(address), address): () for address in own}
    return {
        "gateway-senders": ElementSet(SENDERS, senders),
        HOST_PORTS: ElementSet(PORTS, _host_ports(residents, at_one=False)),
        HOST_PORTS_AT: ElementSet(PORTS_AT, _host_ports(residents, at_one=True)),
    }


def _host_ports(residents: Sequence[Resident], at_one: bool) -> dict[Entry, Entry]:
    """`at_one`: the ports that are published at one address, or all others. A resident that is
    leaving gets no new connections; the kernel remembers the established ones."""
    found: dict[Entry, Entry] = {}
    for sandbox, workload in sorted(
        (r for r in residents if not r.workload.is_leaving), key=lambda r: r.workload.id
    ):
        for port in workload.ports:
            at = () if port.host_address is None else (port.host_address,)
            if port.mode == "host" and port.published and bool(at) == at_one:
                key: Entry = (*at, port.protocol, port.published)
                found.setdefault(key, (sandbox.gateway.ip, port.target))
    return found


def _guard() -> str:
    """The guard for packets from the bridge. It runs before connection tracking, so that dropped
    packets leave no trace."""
    return "\n".join(
        (
            nft.chain(
                "gateway-guard",
                "ether saddr . ip saddr != @gateway-senders drop",
                f"ip daddr {LOOPBACK} drop",
            ),
            nft.base_chain(
                "gateway-in",
                "filter",
                "prerouting",
                nft.RAW,
                f'iifname "{GATEWAY_BRIDGE}" goto gateway-guard',
            ),
        )
    )


def _rules(facts: NodeFacts) -> str:
    protocols = f"meta l4proto {{ {', '.join(PROTOCOLS)} }}"
    targets = (
        f"{protocols} dnat ip to ip daddr . meta l4proto . th dport map @{HOST_PORTS_AT}",
        f"{protocols} dnat ip to meta l4proto . th dport map @{HOST_PORTS}",
    )
    bridge, port, subnet = f'"{GATEWAY_BRIDGE}"', f'"{GATEWAY_PORT_PREFIX}*"', facts.gateway.network
    to_containers = (f"oifname {bridge}", f"oifname {port}")
    inside = f"ct status dnat ip saddr {{ {LOOPBACK}, {subnet} }}"
    return "\n".join(
        (
            nft.base_chain(
                "gateway-nat-in",
                "nat",
                "prerouting",
                nft.DSTNAT,
                *(f"{LOCAL_FROM_OUTSIDE} {target}" for target in targets),
            ),
            nft.base_chain(
                "gateway-nat-out",
                "nat",
                "output",
                nft.DSTNAT,
                *(f"{LOCAL} {target}" for target in targets),
            ),
            nft.chain(
                "gateway-entry",
                "ct state established,related accept",
                "ct status dnat accept",
                "drop",
            ),
            nft.base_chain(
                "gateway-forward",
                "filter",
                "forward",
                nft.FILTER,
                *(f"{way} goto gateway-entry" for way in to_containers),
            ),
            nft.base_chain(
                "gateway-nat-post",
                "nat",
                "postrouting",
                nft.SRCNAT,
                *(f"{way} {inside} snat ip to {facts.data_path_address}" for way in to_containers),
                f'oifname != {{ {bridge}, "{INGRESS_LEG}" }} ip saddr {subnet} masquerade',
            ),
        )
    )
