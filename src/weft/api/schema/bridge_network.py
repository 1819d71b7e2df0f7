"""The requests about networks that only this node has: what creates one, and what connects a
container to one. The errors are Docker's where Docker has one."""

import re
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Annotated

from msgspec import field

from weft.api.schema.common import FEW, Signed, Wire, parse_address
from weft.api.schema.decoding import LINKS
from weft.api.schema.endpoint_options import options_from
from weft.api.schema.network import (
    MTU,
    NetworkWire,
    PoolWire,
    mtu_from,
    pool_from,
    refuse_parts_of_other_networks,
)
from weft.api.schema.network_ipv6 import check_mtu, ipv6_address_from, pools_of
from weft.errors import InvalidArgument, Unsupported, clip
from weft.model.bridge_network import DEFAULT_MTU, BridgeNetworkSpec
from weft.model.endpoint_settings import EndpointSettings
from weft.model.network import Pool

PREFIX = "com.docker.network.bridge."
DEVICE, ICC, MASQUERADE, BINDING, GATEWAY_MODE = (
    f"{PREFIX}{word}"
    for word in (
        "name", "enable_icc", "enable_ip_masquerade", "host_binding_ipv4", "gateway_mode_ipv4",
    )
)  # fmt: skip
IPV6_GATEWAY_MODE = f"{PREFIX}gateway_mode_ipv6"
GATEWAY_MODES = (GATEWAY_MODE, IPV6_GATEWAY_MODE)
OPTIONS = (DEVICE, ICC, MASQUERADE, BINDING, *GATEWAY_MODES, MTU)
LONGEST_PREFIX = 30
"""Bits of a subnet that has room for the bridge and a container."""
_DEVICE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,14}")
_TAKEN_DEVICES = re.compile(r"lo|docker0|docker_gwbridge|ing0|(?:wgw|wbr)-.*|br-[0-9a-f]{12}")
"""Names that Weft gives interfaces itself."""
MAX_NAME = 128
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_BOOLEANS: Mapping[str, bool] = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}
"""As Go's strconv.ParseBool reads them."""


class EndpointIpamWire(Wire, frozen=True):
    ipv4_address: str = field(name="IPv4Address", default="")
    ipv6_address: str = field(name="IPv6Address", default="")
    link_local: tuple[str, ...] = field(name="LinkLocalIPs", default=())


class EndpointWire(Wire, frozen=True):
    ipam: EndpointIpamWire | None = field(name="IPAMConfig", default=None)
    links: tuple[str, ...] = ()
    aliases: Annotated[tuple[str, ...], FEW] = ()
    mac_address: str = ""
    driver_opts: dict[str, str] = field(default_factory=dict)
    gw_priority: Signed = 0


class ConnectWire(Wire, frozen=True):
    container: str = ""
    endpoint: EndpointWire = field(name="EndpointConfig", default=EndpointWire())


class DisconnectWire(Wire, frozen=True):
    container: str = ""
    force: bool = False


def bridge_spec_from(wire: NetworkWire) -> BridgeNetworkSpec:
    """Raises `InvalidArgument`, `Forbidden` or `Unsupported`."""
    _check_name(wire.name)
    _refuse(wire)
    options = wire.options
    mtu = mtu_from(options) or DEFAULT_MTU
    check_mtu(wire, mtu)
    own, six = pools_of(wire)
    return BridgeNetworkSpec(
        name=wire.name,
        labels=wire.labels,
        options=options,
        pool=_pool(wire.name, own),
        has_ipv6=wire.enable_ipv6,
        ipv6_pool=six,
        internal=wire.internal,
        attachable=wire.attachable,
        device=_device(options.get(DEVICE, "")),
        mtu=mtu,
        talks=_boolean(options, ICC),
        masquerades=_boolean(options, MASQUERADE),
        binding=_binding(options.get(BINDING, "")),
    )


def _check_name(name: str) -> None:
    """Raises `InvalidArgument`. Docker takes all but an empty name for a network of one host; names
    of the swarm's are stricter."""
    if not name.strip():
        raise InvalidArgument("invalid name: it is empty")
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidArgument(
            f"invalid name {clip(name)}: at most {MAX_NAME} printable characters are allowed"
        )


def _refuse(wire: NetworkWire) -> None:
    refuse_parts_of_other_networks(wire)
    if wire.scope not in ("", "local"):
        raise Unsupported(
            f"cannot create network {wire.name}: scope {wire.scope} of driver bridge is not"
            " supported by Weft"
        )
    if not (wire.enable_ipv4 or wire.enable_ipv6):
        raise InvalidArgument("IPv4 or IPv6 must be enabled")
    if not wire.enable_ipv4:
        raise Unsupported(
            f"cannot create network {wire.name}: a network without IPv4 (EnableIPv4) is not"
            " supported by Weft"
        )
    for option, value in wire.options.items():
        if option not in OPTIONS or (option in GATEWAY_MODES and value != "nat"):
            raise Unsupported(
                f"cannot create network {wire.name}: option {option}={clip(value)} is not supported"
                " by Weft"
            )


def _pool(name: str, own: tuple[PoolWire, str] | None) -> Pool | None:
    """`own`: the configuration of IPv4, and its path in the request."""
    if own is None:
        return None
    pool = pool_from(*own)
    subnet = pool.subnet
    addresses = {f"auxiliary address {name}": a for name, a in pool.reserved.items()}
    if pool.gateway is not None:
        addresses[f"gateway {pool.gateway}"] = pool.gateway
    errors = [
        f"invalid {what}: parent subnet {subnet} doesn't contain this address"
        for what, address in addresses.items()
        if address not in subnet
    ]
    if pool.ip_range is not None and not pool.ip_range.subnet_of(subnet):
        errors.append(
            f"invalid ip-range {pool.ip_range}: parent subnet {subnet} doesn't contain ip-range"
        )
    if errors:
        raise InvalidArgument("\n".join(("invalid network config:", *errors)))
    if subnet.prefixlen > LONGEST_PREFIX or subnet.is_loopback or subnet.is_multicast:
        raise InvalidArgument(
            f"cannot create network {name}: subnet {subnet} has no room for containers"
        )
    if pool.gateway in (subnet.network_address, subnet.broadcast_address):
        raise InvalidArgument(
            f"cannot create network {name}: gateway {pool.gateway} is an end of {subnet}"
        )
    return pool


def _device(name: str) -> str:
    if name and (not _DEVICE.fullmatch(name) or _TAKEN_DEVICES.fullmatch(name)):
        raise InvalidArgument(
            f"invalid option {DEVICE}: {clip(name)!r} cannot be the name of a bridge"
        )
    return name


def _boolean(options: Mapping[str, str], option: str) -> bool:
    text = options.get(option, "true")
    found = _BOOLEANS.get(text)
    if found is None:
        raise InvalidArgument(
            f"failed to parse {option} value: {clip(text)} (strconv.ParseBool: parsing"
            f" {clip(text)!r}: invalid syntax)"
        )
    return found


def _binding(text: str) -> IPv4Address | None:
    address = parse_address(text, IPv4Address, f"option {BINDING}") if text else None
    return address if address is not None and not address.is_unspecified else None


def endpoint_from(network: str, wire: EndpointWire) -> EndpointSettings:
    """Raises `InvalidArgument` or `Unsupported`."""
    ipam = wire.ipam or EndpointIpamWire()
    unsupported = {
        "a link-local address": ipam.link_local,
        "a link (Links)": wire.links,
        "a priority of the gateway (GwPriority)": wire.gw_priority,
    }
    for what, asked in unsupported.items():
        if asked:
            raise Unsupported(
                f"cannot connect a container to network {network}: {what} is not supported by Weft"
                + (f"; {LINKS}" if wire.links and asked is wire.links else "")
            )
    mac = mac_from(wire.mac_address)
    text = ipam.ipv4_address
    address = parse_address(text, IPv4Address, "IPv4 address") if text else None
    return EndpointSettings(
        network=network,
        address=address,
        ipv6_address=ipv6_address_from(ipam.ipv6_address),
        mac=mac,
        aliases=wire.aliases,
        options=options_from(wire.driver_opts, "EndpointConfig"),
    )


def mac_from(text: str) -> str:
    """Raises `InvalidArgument` for what no single interface can have."""
    mac = text.lower().replace("-", ":")
    if mac and (not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1):
        raise InvalidArgument(f"invalid MAC address: {clip(text)}")
    return mac
