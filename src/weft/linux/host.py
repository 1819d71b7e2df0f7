"""Facts about this host that are needed at the start: addresses, routes, and missing kernel
features.

Everything is read in the namespace of the calling thread, afresh at each call.
"""

import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network
from pathlib import Path
from typing import NamedTuple

from weft.errors import InvalidArgument, NotFound, OperationFailed, Unsupported, cause_of, clip
from weft.linux import netns, sysctl
from weft.linux.netlink import address, link, route
from weft.linux.netlink.message import Request
from weft.linux.netlink.socket import NetlinkSocket
from weft.linux.nft import Nft
from weft.network.kernel_state import MAIN_TABLE, Bridge, BridgePort, Link, Veth, Vxlan
from weft.network.ownership import owns_bridge, owns_link

LOOPBACK = "lo"


class Interface(NamedTuple):
    name: str
    kind: str
    """Empty for hardware."""
    up: bool
    mtu: int
    addresses: tuple[IPv4Interface, ...]


def interfaces() -> list[Interface]:
    """The host's interfaces, without lo and our own."""
    return [interface for interface in all_interfaces() if interface.name != LOOPBACK]


def all_interfaces() -> list[Interface]:
    """The host's interfaces with lo, without our own."""
    channel = NetlinkSocket()
    try:
        found: dict[int, list[IPv4Interface]] = {}
        for info in map(address.decode_address, channel.dump(*address.dump_addresses())):
            if isinstance(info.address, IPv4Interface):
                found.setdefault(info.device, []).append(info.address)
        return [
            Interface(info.name, info.kind, info.up, info.mtu, tuple(found.get(info.device, ())))
            for info in map(link.decode_link, channel.dump(*link.dump_links()))
            if not owns_link(info.name) and not (info.kind == "bridge" and owns_bridge(info.mac))
        ]
    finally:
        channel.close()


def addresses_of(name: str) -> list[IPv4Interface]:
    """Addresses of one of the host's interfaces, whoever made it; none if there is no such one."""
    channel = NetlinkSocket()
    try:
        found = map(address.decode_address, channel.dump(*address.dump_addresses()))
        known = ((info.label, info.address) for info in found)
        return [own for label, own in known if label == name and isinstance(own, IPv4Interface)]
    finally:
        channel.close()


class NoSuchAddress(NotFound):
    """No interface of this host has the address."""


def interface_with(wanted: IPv4Address) -> Interface:
    """The interface that has the address. Raises `NoSuchAddress`."""
    for interface in all_interfaces():
        if any(own.ip == wanted for own in interface.addresses):
            return interface
    raise NoSuchAddress(f"cannot use address {wanted}: no interface of this system has it")


def is_local(address: IPv4Address) -> bool:
    """Whether a program on this host can listen on the address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.bind((str(address), 0))
        except OSError:
            return False
    return True


class Addresses(NamedTuple):
    listen: str
    """`address:port` on which managers listen."""
    advertise: IPv4Address
    """The address that other nodes are told. It need not be one of this host's: a router in front
    of it may translate addresses."""
    data_path: IPv4Address
    """An address of this host, from and to which VXLAN is sent."""


def choose_addresses(
    listen: str, advertise: str, data_path: str, found: Sequence[Interface] | None = None
) -> Addresses:
    """Chooses from what the user asks for (addresses or names of interfaces) as Docker does (moby
    daemon/cluster/listen_addr.go), except for the data path address. The data path address must be
    one of this host's. The default is the advertised address; if the advertised one is not this
    host's or is a loopback address, the host's only address. Raises `InvalidArgument`."""
    found = all_interfaces() if found is None else found
    listen_host, _, port = listen.rpartition(":")
    listens = (
        f"{_named(listen_host, found, 'listen address', OPTIONAL_PORT, unspecified=True)}:{port}"
    )
    if advertise:
        asked, colon, own_port = advertise.rpartition(":")
        if advertise.count(":") > 1:
            raise InvalidArgument(
                f"cannot advertise {clip(advertise)!r}: Weft has no IPv6 between hosts"
            )
        if colon and own_port != port:
            raise Unsupported(
                f"cannot advertise port {clip(own_port)}: Weft advertises the port that it listens"
                f" on, {port}"
            )
        chosen = _named(asked if colon else advertise, found, "advertise address", OPTIONAL_PORT)
    else:
        chosen = default_advertise_address(found)
    return Addresses(listens, chosen, _data_path(data_path, chosen, found))


OPTIONAL_PORT, NO_PORT = "with optional port number", "without a port number"


def _data_path(asked: str, advertise: IPv4Address, found: Sequence[Interface]) -> IPv4Address:
    local = {own.ip for interface in found for own in interface.addresses}
    if asked:
        chosen = _named(asked, found, "data path address", NO_PORT)
        if chosen not in local:
            raise InvalidArgument(
                f"cannot use data path address {chosen}: no interface of this host has it"
            )
        return chosen
    if advertise in local and not advertise.is_loopback:
        return advertise
    try:
        return default_advertise_address(found)
    except InvalidArgument as error:
        if advertise in local:
            return advertise
        raise InvalidArgument(
            f"cannot choose a data path address, say --data-path-addr: {error}"
        ) from error


def _named(
    text: str, found: Sequence[Interface], what: str, hint: str, unspecified: bool = False
) -> IPv4Address:
    """The address of the interface with that name, or the address that `text` is."""
    for interface in found:
        if interface.name == text:
            if len(interface.addresses) > 1:
                both = " and ".join(str(own.ip) for own in interface.addresses[:2])
                raise InvalidArgument(f"interface {text} has more than one IPv4 address ({both})")
            if not interface.addresses:
                raise InvalidArgument(f"interface {text} has no usable IPv4 address")
            return interface.addresses[0].ip
    try:
        address = IPv4Address(text)
    except ValueError:
        address = None
    if address is None or (address.is_unspecified and not unspecified):
        kind = "an IP address" if unspecified else "a non-zero IP address"
        raise InvalidArgument(
            f"{what} must be {kind} or network interface ({hint}): {clip(text)!r}"
        )
    return address


def default_advertise_address(found: Sequence[Interface] | None = None) -> IPv4Address:
    """The system's only address, as in Docker: that of its hardware, or if hardware has none, of
    any interface. Raises InvalidArgument with Docker's text."""
    usable = (
        interfaces()
        if found is None
        else [interface for interface in found if interface.name != LOOPBACK]
    )
    active = [interface for interface in usable if interface.up]
    hardware = [
        pair for interface in active if not interface.kind for pair in _global_addresses(interface)
    ]
    candidates = hardware or [pair for interface in active for pair in _global_addresses(interface)]
    if not candidates:
        raise InvalidArgument("could not find the system's IP address")
    if len(candidates) > 1:
        (a, first), (b, second) = candidates[:2]
        place = (
            f"interface {a} ({first} and {second})"
            if a == b
            else f"different interfaces ({first} on {a} and {second} on {b})"
        )
        raise InvalidArgument(
            "could not choose an IP address to advertise since this system has multiple addresses"
            f" on {place}"
        )
    return candidates[0][1]


def _global_addresses(interface: Interface) -> Iterator[tuple[str, IPv4Address]]:
    for own in interface.addresses:
        if not (
            own.ip.is_loopback
            or own.ip.is_link_local
            or own.ip.is_multicast
            or own.ip.is_unspecified
        ):
            yield interface.name, own.ip


def routes() -> list[IPv4Network]:
    """Destinations in the main table, sorted, without the default route and routes through our own
    devices other than the bridges of this node's own networks."""
    channel = NetlinkSocket()
    try:
        names = {
            info.device: info.name
            for info in map(link.decode_link, channel.dump(*link.dump_links()))
        }
        found = set()
        for info in map(route.decode_route, channel.dump(*route.dump_routes())):
            device = names.get(info.device, "") if info.device is not None else ""
            is_other = info.table == MAIN_TABLE and not owns_link(device)
            subnet = info.destination
            if is_other and subnet.prefixlen and isinstance(subnet, IPv4Network):
                found.add(subnet)
        return sorted(found)
    finally:
        channel.close()


def ipv6_routes() -> list[IPv6Network]:
    """Destinations of IPv6 in the main table, sorted, without the default route."""
    channel = NetlinkSocket()
    try:
        bodies = filter(route.is_ipv6, channel.dump(*route.dump_ipv6_routes()))
        found = {i.destination for i in map(route.decode_route, bodies) if i.table == MAIN_TABLE}
        return sorted(n for n in found if isinstance(n, IPv6Network) and n.prefixlen)
    finally:
        channel.close()


# --- what the kernel can do

_TRIAL_VXLAN = Vxlan(vni=1, local=IPv4Address("127.0.0.1"), port=4789)
_LINK_CHECKS: Sequence[tuple[str, Callable[[int], Request]]] = (
    (
        "bridge devices (CONFIG_BRIDGE)",
        lambda _: link.add_bridge(Link(name="br0", kind=Bridge(), mtu=1450)),
    ),
    (
        "veth devices (CONFIG_VETH)",
        lambda here: link.add_veth(
            Link(name="eth0", kind=Veth(), mtu=1450),
            Link(name="veth1", kind=Veth(), mtu=1450),
            here,
        ),
    ),
    (
        "VXLAN devices (CONFIG_VXLAN)",
        lambda here: link.add_vxlan(
            Link(name="vxlan0", kind=_TRIAL_VXLAN, mtu=1450), _TRIAL_VXLAN, here
        ),
    ),
)
_TABLE_CHECKS = (
    (
        "nftables (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)",
        "table ip w { map m { type ether_addr : mark; }\n}",
    ),
    (
        "nftables address translation (CONFIG_NFT_NAT, CONFIG_NFT_MASQ)",
        "table ip w { chain n { type nat hook postrouting priority srcnat; masquerade\n}\n}",
    ),
    (
        "nftables fib expressions (CONFIG_NFT_FIB_IPV4)",
        "table ip w { chain f { fib daddr type local accept\n}\n}",
    ),
    (
        "nftables random choice (CONFIG_NFT_NUMGEN)",
        "table ip w { chain g { numgen random mod 2 == 0 accept\n}\n}",
    ),
    (
        "nftables hashes (CONFIG_NFT_HASH)",
        "table ip w { chain h { jhash ip saddr mod 2 seed 1 == 0 accept\n}\n}",
    ),
    (
        "nftables connection tracking with zones (CONFIG_NFT_CT, CONFIG_NF_CONNTRACK_ZONES)",
        (
            "table ip w { chain c { type filter hook prerouting priority raw; ct original zone set"
            " 1\n}\n}"
        ),
    ),
    (
        "nftables on bridges (CONFIG_NF_TABLES_BRIDGE)",
        (
            "table bridge w { chain b { type filter hook prerouting priority 0; arp saddr ip"
            " 192.0.2.1 drop\n}\n}"
        ),
    ),
    (
        "nftables egress hooks (CONFIG_NETFILTER_EGRESS, CONFIG_NF_TABLES_NETDEV)",
        'table netdev w { chain e { type filter hook egress device "eth0" priority 0; }\n}',
    ),
)
_SYSCTL_CHECKS = ("net.ipv4.tcp_fwmark_accept", "net.ipv4.fwmark_reflect", "net.ipv4.ip_forward")


def check_features() -> list[str]:
    """A sentence for every missing feature, found by trying it in a temporary namespace. Blocks
    some hundredths of a second."""
    try:
        return netns.run_in_throwaway(_check_features)
    except OSError as error:
        reason = "root is needed" if error.errno == errno.EPERM else cause_of(error)
        return [f"cannot make network namespaces: {reason}"]


def _check_features() -> list[str]:
    missing = []
    channel = NetlinkSocket()
    with Path("/proc/thread-self/ns/net").open() as here:
        for feature, request in _LINK_CHECKS:
            for error in channel.execute([request(here.fileno())]).values():
                missing.append(f"the kernel refuses {feature}: {cause_of(error)}")
    missing += _check_locked_ports(channel)
    channel.close()
    missing += [
        f"the kernel has no parameter {key}" for key in _SYSCTL_CHECKS if sysctl.read(key) is None
    ]
    return missing + _check_tables()


def _check_locked_ports(channel: NetlinkSocket) -> list[str]:
    """Uses the bridge and the veth that were made before. An older kernel accepts the setting
    without effect."""
    devices = map(link.decode_link, channel.dump(*link.dump_links()))
    master = next((info.device for info in devices if info.name == "br0"), None)
    locked = BridgePort(locked=True)
    channel.execute([link.set_link("veth1", master=master), link.set_port("veth1", locked)])
    ports = map(link.decode_link, channel.dump(*link.dump_links()))
    if any(info.name == "veth1" and info.port == locked for info in ports):
        return []
    return ["the kernel has no locked bridge ports (Linux 5.18)"]


def _check_tables() -> list[str]:
    missing = []
    nft = Nft()
    for feature, script in _TABLE_CHECKS:
        try:
            nft.run(script + "\n")
            nft.run(f"delete {' '.join(script.split()[:3])}\n")
        except OperationFailed as error:
            missing.append(f"cannot use {feature}: {error}")
    nft.close()
    return missing
