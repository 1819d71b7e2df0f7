"""Networks that only this node has: a bridge with a subnet of its own. Users write the spec; the
node chooses subnet, gateway and device."""

from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

import msgspec

from weft.errors import InvalidArgument
from weft.model.ids import NetworkId
from weft.model.meta import Nanoseconds
from weft.model.network import Pool

DEFAULT_NETWORK = "bridge"
"""The network of containers that ask for none. Its containers do not know each other's names."""
DEFAULT_DEVICE = "docker0"
BRIDGE_PREFIX = "br-"
DEFAULT_MTU = 1500
SHORT_ID = 12
NOT_CONTAINED = "no configured subnet or ip-range contain the IP address {}"
NOT_CONFIGURED = (
    "user specified IP address is supported only when connecting to networks with user configured"
    " subnets"
)


class Ipv6Pool(msgspec.Struct, frozen=True, omit_defaults=True):
    """The IPv6 subnet as the user asked for it; see `model/network.py`, `Pool`."""

    subnet: IPv6Network
    gateway: IPv6Address | None = None
    ip_range: IPv6Network | None = None
    reserved: dict[str, IPv6Address] = msgspec.field(default_factory=dict)


class BridgeNetworkSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    name: str
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    """The driver's options as given; the fields below hold their parsed values."""
    pool: Pool | None = None
    """None: a subnet of the local default pools."""
    has_ipv6: bool = False
    """Whether the network has a subnet of IPv6 beside that of IPv4."""
    ipv6_pool: Ipv6Pool | None = None
    """None: a subnet of this host's own prefix of unique local addresses."""
    internal: bool = False
    """Containers reach each other and this host, and nothing else."""
    attachable: bool = False
    """Means nothing here; shown as given."""
    device: str = ""
    """The bridge's name; empty: derived from the network's id."""
    mtu: int = DEFAULT_MTU
    talks: bool = True
    """Whether the containers reach each other's unpublished ports (`enable_icc`)."""
    masquerades: bool = True
    """Whether packets to the outside get the host's address (`enable_ip_masquerade`)."""
    binding: IPv4Address | None = None
    """The host's address on which ports are published that name none; None: on all."""

    def check_ipv6(self, wanted: IPv6Address) -> None:
        """Raises `InvalidArgument` for an address of a container that the network cannot give."""
        if self.ipv6_pool is None:
            raise InvalidArgument(f"invalid endpoint settings:\n{NOT_CONFIGURED}")
        if wanted not in self.ipv6_pool.subnet:
            raise InvalidArgument(f"invalid endpoint settings:\n{NOT_CONTAINED.format(wanted)}")


class BridgeNetwork(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: NetworkId
    """64 hexadecimal digits."""
    spec: BridgeNetworkSpec
    subnet: IPv4Network
    gateway: IPv4Address
    """The bridge's own address, which is the containers' gateway unless the network is internal."""
    ipv6_subnet: IPv6Network | None = None
    """None: no IPv6."""
    ipv6_gateway: IPv6Address | None = None
    created_at: Nanoseconds = 0
    is_default: bool = False
    """Whether this is the network `bridge`, which every host has."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def device(self) -> str:
        if self.is_default:
            return DEFAULT_DEVICE
        return self.spec.device or f"{BRIDGE_PREFIX}{self.id[:SHORT_ID]}"

    @property
    def gateway_interface(self) -> IPv4Interface:
        return IPv4Interface(f"{self.gateway}/{self.subnet.prefixlen}")

    @property
    def ipv6_gateway_interface(self) -> IPv6Interface | None:
        if self.ipv6_subnet is None or self.ipv6_gateway is None:
            return None
        return IPv6Interface(f"{self.ipv6_gateway}/{self.ipv6_subnet.prefixlen}")
