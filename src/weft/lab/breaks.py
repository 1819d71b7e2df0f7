"""Faults that are made on purpose: what is done to which host, how it is taken back, and what
`weft trace` and `weft doctor` must say of it.

One table for three readers: `weft lab break` makes these faults in the running lab for people to
find, and the tests hold trace and doctor to what is written here. In all of them the service APP on
one host calls the service WEB on another, over the network NETWORK.

What Weft has made itself it mends within ten seconds, mostly at once: of these faults (`MENDED`) the
doctor tells afterwards; a trace meets them only where no daemon runs, as in the tests with kernels
alone. The others (`LASTING`) stay until they are taken back.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from weft.model.trace import CauseKind

APP, WEB, NETWORK, PORT = "break-app", "break-web", "break-net", 8090
Role = Literal["manager", "app", "web", "client"]
"""A host: the manager, that of the caller, that of the server, and one outside of the swarm."""
Space = Literal["host", "network", "app", "web"]
"""A network namespace of a host: its own, that of the overlay, that of a container."""


class Named(NamedTuple):
    """What a trace must say."""

    kind: CauseKind | None
    """None: the walk finds nothing, and the marked packet says it."""
    host: Role
    space: Space
    device: str
    words: str
    """Part of what is said to be wrong."""


class Fault(NamedTuple):
    name: str
    symptom: str
    """What the reader is told."""
    hint: str
    host: Role
    space: Space
    commands: tuple[str, ...]
    """`{address}` and `{mac}` are those of WEB's container, `{sender}` is the MAC of APP's."""
    undo: tuple[str, ...] = ()
    """Empty: Weft does it."""
    trace: Named | None = None
    """None: a packet's way does not show it."""
    target: str = WEB
    """Where the trace goes, from APP."""
    doctor: str = ""
    """Part of a line of the doctor's; empty: it does not look at this."""


LOST = (
    "For a moment, calls from break-app to break-web got lost. They work again: something was"
    " mended."
)
DEAD = "break-app no longer gets an answer from break-web."
DOORS = f"Port {PORT} of node2 no longer answers; break-web itself is well."
LOOK = "weft doctor tells for five minutes what was mended, and where."
WALK = "weft trace break-app break-web"
PACKET = (
    "Read the last line of weft trace break-app break-web: the marked packet knows more than the"
    " walk."
)

MENDED: tuple[Fault, ...] = (
    Fault(
        "forwarding-entry-removed", LOST, LOOK,
        "app", "network", ("bridge fdb del {mac} dev vxlan0 dst 10.59.72.12 self",),
        trace=Named(CauseKind.NO_FORWARDING, "app", "network", "vxlan0", "no forwarding entry for {mac}"),
        doctor="forwarding entry {mac}"),
    Fault(
        "neighbour-removed", LOST, LOOK,
        "app", "network", ("ip neigh del {address} dev vxlan0",),
        trace=Named(CauseKind.NO_NEIGHBOUR, "app", "network", "vxlan0",
                    "vxlan0 has no neighbour entry for {address}"),
        doctor="neighbour entry {address}"),
    Fault(
        "neighbour-with-wrong-mac", LOST, LOOK,
        "app", "network",
        ("ip neigh replace {address} lladdr 02:42:00:00:00:99 dev vxlan0 nud permanent",),
        trace=Named(CauseKind.NO_FORWARDING, "app", "network", "vxlan0",
                    "no forwarding entry for 02:42:00:00:00:99"),
        doctor="neighbour entry {address}"),
    Fault(
        "tunnel-down-at-the-sender", LOST, LOOK,
        "app", "network", ("ip link set vxlan0 down",),
        trace=Named(CauseKind.NO_NEIGHBOUR, "app", "network", "vxlan0", "interface vxlan0 is down"),
        doctor="link vxlan0 in "),
    Fault(
        "tunnel-down-at-the-receiver", LOST, LOOK,
        "web", "network", ("ip link set vxlan0 down",),
        trace=Named(CauseKind.DOWN, "web", "network", "vxlan0", "interface vxlan0 is down"),
        doctor="link vxlan0 in "),
    Fault(
        "tunnel-removed", LOST, LOOK,
        "web", "network", ("ip link del vxlan0",),
        trace=Named(CauseKind.MISSING, "web", "host", "", "no VXLAN interface with VNI"),
        doctor="link vxlan0 in "),
    Fault(
        "veth-without-a-master", LOST, LOOK,
        "app", "network", ("ip link set veth1 nomaster",),
        trace=Named(CauseKind.NO_NEIGHBOUR, "app", "network", "veth1", "veth1 is a port of no bridge"),
        doctor="link veth1 in "),
    Fault(
        "veth-without-a-master-at-the-receiver", LOST, LOOK,
        "web", "network", ("ip link set veth1 nomaster",),
        trace=Named(CauseKind.NO_FORWARDING, "web", "network", "vxlan0", "no forwarding entry for {mac}"),
        doctor="link veth1 in "),
    Fault(
        "veth-in-the-wrong-bridge", LOST, LOOK,
        "app", "network",
        ("ip link add br7 type bridge", "ip link set br7 up", "ip link set veth1 master br7"),
        trace=Named(CauseKind.NO_NEIGHBOUR, "app", "network", "veth1",
                    "veth1 is a port of br7, vxlan0 of br0"),
        doctor="link veth1 in "),
    Fault(
        "bridge-down", LOST, LOOK,
        "app", "network", ("ip link set br0 down",),
        trace=Named(CauseKind.NO_NEIGHBOUR, "app", "network", "br0", "interface br0 is down"),
        doctor="link br0 in "),
    Fault(
        "interface-of-the-container-down", LOST, LOOK,
        "web", "web", ("ip link set eth1 down",),
        trace=Named(CauseKind.DOWN, "web", "web", "eth1", "interface eth1 is down"),
        doctor="link eth1 in "),
    Fault(
        "address-of-the-container-removed", LOST, LOOK,
        "web", "web", ("ip address del {address}/24 dev eth1",),
        trace=Named(CauseKind.NOT_A_ROUTER, "web", "web", "eth1", "{address} is not an address"),
        doctor="address {address}"),
    Fault(
        "mac-of-the-container-changed", LOST, LOOK,
        "web", "web", ("ip link set eth1 address 02:42:00:00:00:99",),
        trace=Named(CauseKind.WRONG_MAC, "web", "web", "eth1", ""),
        doctor="link eth1 in "),
    Fault(
        "port-entry-removed", LOST, LOOK,
        "web", "network", ("bridge fdb del {mac} dev veth1 master static",),
        trace=Named(CauseKind.NO_FORWARDING, "web", "network", "vxlan0", "no forwarding entry for {mac}"),
        doctor="forwarding entry {mac}"),
    Fault(
        "sender-unknown-to-its-bridge", LOST, LOOK,
        "app", "network", ("bridge fdb del {sender} dev veth1 master static",),
        trace=Named(CauseKind.NO_FORWARDING, "app", "network", "veth1",
                    "no forwarding entry for {sender} at veth1"),
        doctor="forwarding entry {sender}"),
    Fault(
        "mtu-of-a-veth-lowered", LOST, LOOK,
        "web", "network", ("ip link set veth1 mtu 1000",),
        trace=Named(CauseKind.TOO_LARGE, "web", "network", "veth1", "the MTU is 1000"),
        doctor="link veth1 in "),
    Fault(
        "rules-of-the-container-flushed", LOST, LOOK,
        "app", "app", ("nft flush table ip weft",),
        trace=Named(CauseKind.RULES_CHANGED, "app", "app", "", "somebody has changed them"),
        doctor="nftables table ip weft"),
    Fault(
        "rules-of-the-host-changed", LOST, LOOK,
        "web", "host", ("nft flush chain ip weft-underlay vxlan-in",),
        trace=Named(CauseKind.RULES_CHANGED, "web", "host", "ens160", "somebody has changed them"),
        doctor="nftables table ip weft-underlay"),
)  # fmt: skip

DROP = "nft add rule inet strict in "
CHAIN = (
    "nft add table inet strict",
    "nft add chain inet strict in {{ type filter hook {hook} priority {priority}; }}",
)
LASTING: tuple[Fault, ...] = (
    Fault(
        "vxlan-dropped-by-a-firewall", DEAD, PACKET,
        "web", "host",
        (CHAIN[0], CHAIN[1].format(hook="input", priority=0), f"{DROP}udp dport 4789 drop"),
        ("nft delete table inet strict",),
        trace=Named(None, "web", "host", "ens160", "THE PROBE DISAGREES"),
        doctor="firewall: a rule in chain in of table inet strict drops 4789/udp (VXLAN)"),
    Fault(
        "esp-dropped-by-a-firewall",
        "Encrypted networks do not work between node2 and the others.", "weft doctor looks at firewalls.",
        "web", "host",
        (CHAIN[0], CHAIN[1].format(hook="input", priority=0), f"{DROP}ip protocol esp drop"),
        ("nft delete table inet strict",),
        doctor="firewall: a rule in chain in of table inet strict drops protocol 50 (ESP"),
    Fault(
        "published-port-dropped", DOORS, f"weft trace {APP} node2:{PORT}",
        "web", "host",
        (CHAIN[0], CHAIN[1].format(hook="prerouting", priority=-350), f"{DROP}tcp dport {PORT} drop"),
        ("nft delete table inet strict",),
        trace=Named(None, "web", "host", "ens160", "THE PROBE DISAGREES"),
        target=f"node2:{PORT}"),
    Fault(
        "forwarding-refused-by-a-firewall", DOORS, f"weft trace {APP} node2:{PORT}, and weft doctor",
        "web", "host",
        (CHAIN[0], "nft add chain inet strict in { type filter hook forward priority 0; policy drop; }"),
        ("nft delete table inet strict",),
        trace=Named(None, "web", "host", "ens160", "THE PROBE DISAGREES"),
        target=f"node2:{PORT}", doctor="firewall"),
    Fault(
        "underlay-mtu-lowered",
        "Small answers of break-web arrive, large ones do not.", "weft doctor compares sizes of packets.",
        "web", "host", ("ip link set ens160 mtu 1400",), ("ip link set ens160 mtu 1500",),
        trace=Named(CauseKind.TOO_LARGE, "web", "host", "ens160", "the MTU is 1400"),
        doctor="way to 10.59.72.12: packets of 1500 bytes do not arrive"),
    Fault(
        "underlay-cut-one-way", DEAD, PACKET,
        "app", "host",
        (CHAIN[0], CHAIN[1].format(hook="prerouting", priority=-450), f"{DROP}ip saddr 10.59.72.12 drop"),
        ("nft delete table inet strict",),
        trace=Named(None, "app", "network", "vxlan0", "its answer does not come to"),
        doctor="way to 10.59.72.12: no packet is answered"),
    Fault(
        "route-of-the-underlay-missing", DEAD, WALK,
        "app", "host",
        ("ip route add unreachable 10.59.72.12/32",), ("ip route del unreachable 10.59.72.12/32",),
        trace=Named(CauseKind.NO_ROUTE, "app", "host", "", "no route to 10.59.72.12"),
        doctor="way to 10.59.72.12: no packet is answered"),
    Fault(
        "neighbour-of-the-underlay-wrong", DEAD, PACKET,
        "app", "host",
        ("ip neigh replace 10.59.72.12 lladdr 02:00:00:00:00:99 dev ens160 nud permanent",),
        ("ip neigh del 10.59.72.12 dev ens160",),
        trace=Named(None, "web", "host", "ens160", "THE PROBE DISAGREES"),
        doctor="way to 10.59.72.12: no packet is answered"),
    Fault(
        "listens-on-the-loopback-only", DEAD, WALK,
        "manager", "host",
        (f"docker service update -q --args '/bin/busybox httpd -f -p 127.0.0.1:80' {WEB}",),
        (f"docker service update -q --args '' {WEB}",),
        trace=Named(CauseKind.NO_LISTENER, "web", "web", "", "the server listens on 127.0.0.1 only")),
    Fault(
        "port-closed", DEAD, WALK,
        "manager", "host",
        (f"docker service update -q --args '/bin/busybox httpd -f -p 81' {WEB}",),
        (f"docker service update -q --args '' {WEB}",),
        trace=Named(CauseKind.NO_LISTENER, "web", "web", "", "no socket listens on tcp port 80")),
    Fault(
        "no-task-serves", DEAD, f"{WALK}; docker service ls",
        "manager", "host",
        (f"docker service scale -d {WEB}=0",), (f"docker service scale -d {WEB}=1",),
        trace=Named(CauseKind.RULE, "app", "app", "", "no task of the service with this virtual")),
    Fault(
        "not-on-the-network", DEAD, WALK,
        "manager", "host",
        (f"docker service update -q --network-rm {NETWORK} {APP}",),
        (f"docker service update -q --network-add {NETWORK} {APP}",),
        trace=Named(CauseKind.NO_NAME, "app", "app", "", "no network of the sender knows this name")),
    Fault(
        "no-node-is-good-enough",
        "A third task of break-web was asked for, and does not come.", "weft doctor; it needs 20 s.",
        "manager", "host",
        (f"docker service update -d --constraint-add node.labels.good==true {WEB}",),
        (f"docker service update -d --constraint-rm node.labels.good==true {WEB}",),
        doctor=f"service {WEB}: a task waits for a node"),
    Fault(
        "two-hosts-with-one-address",
        "Packets to node2 sometimes go elsewhere.", "weft doctor asks the neighbours.",
        "client", "host",
        ("ip address add 10.59.72.12/32 dev ens160",), ("ip address del 10.59.72.12/32 dev ens160",),
        doctor="address 10.59.72.12: another host has it too"),
)  # fmt: skip

FAULTS = {fault.name: fault for fault in (*MENDED, *LASTING)}


def filled(command: str, words: Mapping[str, str]) -> str:
    """The command or text with the addresses of this swarm."""
    for name, value in words.items():
        command = command.replace(f"{{{name}}}", value)
    return command
