"""Networks of one node, including its part of overlays: what `docker network inspect` shows
there."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface
from typing import Literal

import msgspec

from weft.model.addresses import MacAddress
from weft.model.bridge_network import Ipv6Pool


class LocalEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A container or load balancer on a network of this node."""

    key: str
    """The container's id; `lb-<network>` or `ingress-sbox` for a load balancer."""
    name: str
    endpoint_id: str
    address: IPv4Interface
    aliases: tuple[str, ...] = ()
    mac: MacAddress = ""
    """Empty: derived from the address."""
    ipv6_address: IPv6Interface | None = None


class PeerView(msgspec.Struct, frozen=True):
    """A node on an overlay, as `docker network inspect` lists it."""

    name: str
    """12 hexadecimal digits."""
    address: str


class ServiceTaskView(msgspec.Struct, frozen=True):
    name: str
    endpoint_id: str
    address: str
    host: str


class ServiceView(msgspec.Struct, frozen=True):
    """For `docker network inspect --verbose`."""

    name: str
    virtual_address: str
    ports: tuple[str, ...]
    tasks: tuple[ServiceTaskView, ...]


class LocalNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """A network of this node: `bridge`, `host`, `none`, `docker_gwbridge`, or an overlay that the
    node is on."""

    id: str
    name: str
    driver: Literal["bridge", "host", "null", "overlay"]
    scope: Literal["local", "swarm"] = "local"
    created_at: int = 0
    pools: tuple[tuple[IPv4Network, str], ...] = ()
    """(subnet, gateway)"""
    ip_range: IPv4Network | None = None
    """The only part of the subnet from which addresses are given out, if the user named one."""
    reserved: Mapping[str, IPv4Address] = msgspec.field(default_factory=dict)
    """Addresses that are never given out."""
    ipv6_pool: Ipv6Pool | None = None
    """With its gateway; None: no IPv6."""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    options: Mapping[str, str] = msgspec.field(default_factory=dict)
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    endpoints: tuple[LocalEndpoint, ...] = ()
    peers: tuple[PeerView, ...] = ()
    services: tuple[ServiceView, ...] = ()
