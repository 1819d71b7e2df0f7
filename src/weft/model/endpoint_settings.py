"""How a user asks for a container's place on one of this node's networks."""

from ipaddress import IPv4Address, IPv6Address

import msgspec


class EndpointSettings(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    network: str
    """Name, id or the beginning of an id, as the user wrote it."""
    address: IPv4Address | None = None
    """None: a free address of the network."""
    ipv6_address: IPv6Address | None = None
    """As `address`."""
    mac: str = ""
    """Empty: derived from the address."""
    aliases: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    """Names and values that have no effect, and that `inspect` shows."""
