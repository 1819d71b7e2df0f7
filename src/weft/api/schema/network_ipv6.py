"""IPv6 in the requests about networks that only this node has. The errors are Docker's where Docker
has one (moby api/types/network/ipam.go and endpoint.go)."""

from collections.abc import Iterator
from ipaddress import AddressValueError, IPv6Address, IPv6Network, ip_address, ip_network

from weft.api.schema.network import NetworkWire, PoolWire
from weft.errors import Forbidden, InvalidArgument, Unsupported, clip
from weft.model.bridge_network import Ipv6Pool

LEAST_MTU = 1280
"""Of a link that carries IPv6 (RFC 8200 section 5)."""
LONGEST_PREFIX = 126
"""Bits of a subnet that has room for the bridge and a container."""


def check_mtu(wire: NetworkWire, mtu: int) -> None:
    if wire.enable_ipv6 and mtu < LEAST_MTU:
        raise InvalidArgument(
            f"cannot create network {wire.name}: MTU {mtu} is too small for IPv6, which needs"
            f" {LEAST_MTU}"
        )


def pools_of(wire: NetworkWire) -> tuple[tuple[PoolWire, str] | None, Ipv6Pool | None]:
    """The configuration of IPv4 with its path in the request, and that of IPv6. Raises
    `InvalidArgument`, `Forbidden` or `Unsupported`."""
    of_ipv4: list[tuple[PoolWire, str]] = []
    of_ipv6: list[tuple[PoolWire, str]] = []
    for index, pool in enumerate(wire.ipam.config):
        found = of_ipv6 if ":" in pool.subnet else of_ipv4
        found.append((pool, f"IPAM.Config[{index}]"))
    if len(of_ipv4) > 1 or len(of_ipv6) > 1:
        raise Forbidden("bridge driver doesn't support multiple subnets")
    if of_ipv6 and not wire.enable_ipv6:
        pool, path = of_ipv6[0]
        raise Unsupported(
            f"{path}.Subnet: {clip(pool.subnet)} of a network without IPv6 (EnableIPv6) is not"
            " supported by Weft"
        )
    six = _ipv6_pool(wire.name, of_ipv6[0][0]) if of_ipv6 else None
    return of_ipv4[0] if of_ipv4 else None, six


def _ipv6_pool(name: str, wire: PoolWire) -> Ipv6Pool:
    try:
        written = ip_network(wire.subnet, strict=False)
    except ValueError:
        written = None
    if not isinstance(written, IPv6Network) or "/" not in wire.subnet:
        raise _invalid(f"invalid subnet {clip(wire.subnet)}: invalid CIDR block notation")
    errors = [*_errors(wire, written)]
    if errors:
        raise _invalid(*errors)
    if written.is_multicast:
        raise InvalidArgument(f"multicast subnet '{written}' is not allowed")
    if written.prefixlen > LONGEST_PREFIX or written.is_loopback or written.is_link_local:
        raise InvalidArgument(
            f"cannot create network {name}: subnet {written} has no room for containers"
        )
    pool = Ipv6Pool(
        written,
        IPv6Address(_bare(wire.gateway)) if wire.gateway else None,
        IPv6Network(wire.ip_range) if wire.ip_range else None,
        {key: IPv6Address(_bare(text)) for key, text in wire.auxiliary.items()},
    )
    if pool.gateway == written.network_address or pool.gateway in pool.reserved.values():
        raise Forbidden(f"failed to allocate gateway ({pool.gateway}): Address already in use")
    return pool


def _invalid(*errors: str) -> InvalidArgument:
    shown = errors if len(errors) == 1 else tuple(f"* {error}" for error in errors)
    return InvalidArgument("\n".join(("invalid network config:", *shown)))


def _errors(wire: PoolWire, subnet: IPv6Network) -> Iterator[str]:
    if IPv6Address(_bare(wire.subnet)) != subnet.network_address:
        yield f"invalid subnet {clip(wire.subnet)}: it should be {subnet}"
    yield from _range_errors(wire.ip_range, subnet)
    for what, text in (
        (f"gateway {clip(wire.gateway)}", wire.gateway),
        *((f"auxiliary address {clip(key)}", text) for key, text in wire.auxiliary.items()),
    ):
        if text and (cause := _outside(_bare(text), subnet)):
            yield f"invalid {what}: {cause}"


def _range_errors(text: str, subnet: IPv6Network) -> Iterator[str]:
    if not text:
        return
    start = f"invalid ip-range {clip(text)}:"
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        yield f"{start} invalid CIDR block notation"
        return
    if not isinstance(found, IPv6Network):
        yield f"{start} parent subnet is an IPv6 block"
        return
    if found.prefixlen < subnet.prefixlen:
        yield f"{start} CIDR block is bigger than its parent subnet {subnet}"
    if ip_address(text.partition("/")[0]) != found.network_address:
        yield f"{start} it should be {found}"
    if not subnet.overlaps(found):
        yield f"{start} parent subnet {subnet} doesn't contain ip-range"


def _outside(text: str, subnet: IPv6Network) -> str:
    """Why an address is not one of the subnet's; empty if it is."""
    try:
        found = ip_address(text)
    except ValueError:
        return "invalid address"
    if not isinstance(found, IPv6Address):
        return "parent subnet is an IPv6 block"
    return "" if found in subnet else f"parent subnet {subnet} doesn't contain this address"


def _bare(text: str) -> str:
    """Clients may append a prefix length, which is ignored."""
    return text.partition("/")[0]


def ipv6_address_from(text: str) -> IPv6Address | None:
    """A container's address, as the user asks for it. Raises `InvalidArgument`."""
    if not text:
        return None
    try:
        found = IPv6Address(text)
    except AddressValueError:
        found = IPv6Address(0)
    if found.is_unspecified or found.scope_id is not None:
        raise InvalidArgument(f"invalid endpoint settings:\ninvalid IPv6 address: {clip(text)}")
    return found
