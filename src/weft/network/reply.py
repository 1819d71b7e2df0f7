"""The mesh inside a container: lets a request in, and sends the reply back by the host that the
request came by.

    previous hop   overlay.py: a frame from some host's leg `ing0`, by br0 and veth<n> to the
                   container's eth0
    this hop       on the way in the leg's MAC becomes a mark; on the way out the mark becomes the
                   leg's MAC
    next hop       overlay.py again, towards that leg; then ingress.py undoes its DNAT

The request has the client's address, which does not tell the container which host to reply by: the
MAC does. The cost does not grow with the number of hosts: one rule, one route, one dummy neighbour,
and one map look-up (decision 21). The mark is made of the leg's address, so that it means the same
host for as long as a connection lives.

Why each unusual piece exists:
* `tcp_fwmark_accept`: a TCP socket replies with its request's mark; other protocols get the mark
  from the connection (`ct mark`).
* `fwmark_reflect`: resets and ICMP errors, which have no socket, also carry the request's mark.
* conntrack zone by source MAC, and the empty nat chain at input: the same client address and port
  may come by two hosts at once. The second connection's port is changed, which needs some nat chain
  to exist: the resolver's would do.
* rules on UDP source ports: a server bound to 0.0.0.0 replies from the address of the route that
  the client's address selects; the rule's table selects the ingress address. Its on-link routes are
  those of the main table.
* mesh-nat-udp: a request for such a UDP port may come by the gateway, if the port is published in
  host mode too. DNAT sends it to the ingress address, so that the reply leaves from there and
  belongs to the same connection. A client outside may have an address of one of the container's
  other overlays: the reply to that address would leave with the container's own address there, so
  DNAT sends the request to that one.
* mesh-nat-post: without it, a connection that the container itself opens from such a port would
  leave by the gateway with the ingress address.
* mesh-guard: other containers of the ingress network cannot get in, nor can a host except by its
  leg. A container that is about to stop lets nobody new in (`mesh-targets` is empty): a SYN without
  an answer is sent again, and goes to another task; a reset would reach the client.
"""

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import msgspec

from weft.model.addresses import Port, mac_for
from weft.model.assignment import EndpointRecord, NetworkView
from weft.model.workload import Workload
from weft.network import nft
from weft.network.fragments import table
from weft.network.kernel_state import ElementSet, Namespace, Neighbour, Route, Rule, SetType
from weft.network.overlay import LEG_PREFIX

DUMMY_HOP = IPv4Address("169.254.1.1")
"""An address that no host has; its MAC is replaced on the way out."""
DUMMY_MAC = "02:43:00:00:00:00"
MARK_BASE, MARK_MASK = 0x0100_0000, 0xFF00_0000
ANSWER_TABLE, SOURCE_TABLE = 100, 110
ANSWER_PRIORITY, SOURCE_PRIORITY = 1000, 1001
UDP = 17
DEFAULT = IPv4Network("0.0.0.0/0")
MARKS = SetType(("ether_addr",), ("mark",))
MACS = SetType(("mark",), ("ether_addr",))
TARGETS = SetType(("inet_proto", "inet_service"))


class Interface(msgspec.Struct, frozen=True):
    """An interface of a sandbox with its one address."""

    name: str
    address: IPv4Interface


class Legs(msgspec.Struct, frozen=True):
    """The hosts' own legs on the ingress network, by which requests come."""

    by_mac: ElementSet
    by_mark: ElementSet


def leg_endpoints(view: NetworkView) -> list[EndpointRecord]:
    """The load balancers of all hosts that have an address on the network."""
    return [endpoint for endpoint in view.endpoints.values() if endpoint.task is None]


def legs(endpoints: Iterable[EndpointRecord]) -> Legs:
    """The legs as maps in both directions, the same for all containers."""
    pairs = [
        (mac_for(leg.address.ip, LEG_PREFIX), leg_mark(leg))
        for leg in sorted(endpoints, key=lambda e: e.address)
    ]
    by_mac = ElementSet(MARKS, {(mac,): (mark,) for mac, mark in pairs})
    return Legs(by_mac, ElementSet(MACS, {(mark,): (mac,) for mac, mark in pairs}))


def answers(
    sandbox: str,
    workload: Workload,
    entry: Interface,
    others: Sequence[Interface],
    gateway: tuple[Interface, IPv4Address],
    legs: Legs,
) -> Iterator[Namespace]:
    """`sandbox`: the container's namespace; `entry`: its interface on the ingress network;
    `others`: its interfaces on other overlays; `gateway`: its interface on docker_gwbridge and the
    bridge's address; `legs`: the load balancers of all hosts."""
    yield _routing(sandbox, entry)
    ports = sorted({(p.protocol, p.target) for p in workload.ports if p.mode == "ingress"})
    targets = ElementSet(TARGETS, dict.fromkeys(() if workload.is_closed else ports, ()))
    yield from _sources(
        sandbox, [target for protocol, target in ports if protocol == "udp"], entry, others, gateway
    )
    yield Namespace(
        name=sandbox,
        tables=table(
            _way_in(entry, others, gateway[0]),
            sets={"mesh-legs": legs.by_mac, "mesh-targets": targets},
        )
        | table(_way_out(entry), "netdev", sets={"mesh-back": legs.by_mark}),
        sysctls={
            "net.ipv4.conf.all.rp_filter": "0",
            f"net.ipv4.conf.{entry.name}.rp_filter": "0",
            "net.ipv4.fwmark_reflect": "1",
            "net.ipv4.tcp_fwmark_accept": "1",
        },
    )


def leg_mark(leg: EndpointRecord) -> int:
    """The leg's mark. It stays the same while the host has its address, whatever other hosts come
    or go."""
    return MARK_BASE | int(leg.address.ip) & ~MARK_MASK


def _routing(sandbox: str, entry: Interface) -> Namespace:
    return Namespace(
        name=sandbox,
        neighbours=frozenset({Neighbour(entry.name, DUMMY_HOP, DUMMY_MAC)}),
        routes=frozenset(
            {
                Route(
                    destination=DEFAULT,
                    via=DUMMY_HOP,
                    device=entry.name,
                    table=ANSWER_TABLE,
                    onlink=True,
                )
            }
        ),
        rules=frozenset(
            {Rule(priority=ANSWER_PRIORITY, table=ANSWER_TABLE, mark=MARK_BASE, mask=MARK_MASK)}
        ),
    )


def _sources(
    sandbox: str,
    ports: Sequence[Port],
    entry: Interface,
    others: Sequence[Interface],
    gateway: tuple[Interface, IPv4Address],
) -> Iterator[Namespace]:
    if not ports:
        return
    link, hop = gateway
    rules = {
        Rule(
            priority=SOURCE_PRIORITY,
            table=SOURCE_TABLE,
            input_device="lo",
            protocol=UDP,
            source_ports=some,
        )
        for some in port_ranges(ports)
    }
    routes = {
        Route(destination=i.address.network, device=i.name, source=i.address.ip, table=SOURCE_TABLE)
        for i in (entry, *others, link)
    }
    routes.add(
        Route(
            destination=DEFAULT,
            via=hop,
            device=link.name,
            source=entry.address.ip,
            table=SOURCE_TABLE,
        )
    )
    yield Namespace(name=sandbox, rules=frozenset(rules), routes=frozenset(routes))


def port_ranges(ports: Sequence[Port]) -> Iterator[tuple[Port, Port]]:
    """The ports, ascending, as ranges (first, last). The kernel tries one rule after the other for
    each datagram: with thousands of ports, that would be most of the datagram's way."""
    first = last = None
    for port in ports:
        if first is None or last is None:
            first = port
        elif port > last + 1:
            yield first, last
            first = port
        last = port
    if first is not None and last is not None:
        yield first, last


def _way_in(entry: Interface, others: Sequence[Interface], gateway: Interface) -> str:
    dev = f'iifname "{entry.name}"'
    to_targets = "meta l4proto udp meta l4proto . th dport @mesh-targets dnat ip to"
    udp = [
        f'iifname "{gateway.name}" ip daddr {gateway.address.ip} {to_targets} {entry.address.ip}',
        *(f"{dev} ip saddr {i.address.network} {to_targets} {i.address.ip}" for i in others),
    ]
    ours = f"& {MARK_MASK:#010x} == {MARK_BASE:#010x}"
    return "\n".join(
        (
            nft.base_chain(
                "mesh-zone",
                "filter",
                "prerouting",
                nft.RAW,
                f"{dev} ct original zone set @ll,80,16",
            ),
            nft.base_chain(
                "mesh-mark-in",
                "filter",
                "prerouting",
                nft.MANGLE,
                f"{dev} meta mark set ether saddr map @mesh-legs",
                f"meta l4proto != tcp ct state new meta mark {ours} ct mark set meta mark",
            ),
            nft.base_chain(
                "mesh-guard",
                "filter",
                "input",
                nft.FILTER,
                f"{dev} ct state established,related accept",
                f"{dev} meta mark {ours} meta l4proto . th dport @mesh-targets accept",
                f"{dev} meta l4proto {{ tcp, udp, sctp }} drop",
            ),
            nft.base_chain("mesh-nat-udp", "nat", "prerouting", nft.DSTNAT, *udp),
            nft.base_chain("mesh-nat-in", "nat", "input", nft.SRCNAT),
            nft.base_chain(
                "mesh-mark-out",
                "route",
                "output",
                nft.MANGLE,
                f"meta l4proto != tcp ct direction reply ct mark {ours} meta mark set ct mark",
            ),
            nft.base_chain(
                "mesh-nat-post",
                "nat",
                "postrouting",
                nft.SRCNAT,
                f'oifname "{gateway.name}" ip saddr {entry.address.ip} snat ip to'
                f" {gateway.address.ip}",
            ),
        )
    )


def _way_out(entry: Interface) -> str:
    rule = "ether daddr set meta mark map @mesh-back"
    return nft.base_chain("mesh-egress", "filter", "egress", nft.FILTER, rule, device=entry.name)
