"""A network of the swarm. spec: the user's; segments and cursor: the allocator's."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import msgspec

from weft.model.addresses import Vni
from weft.model.encryption import IcvBits
from weft.model.ids import NetworkId
from weft.model.meta import Meta


class Pool(msgspec.Struct, frozen=True, omit_defaults=True):
    """One subnet as the user asked for it."""

    subnet: IPv4Network
    gateway: IPv4Address | None = None
    ip_range: IPv4Network | None = None
    """Addresses are taken from this part of the subnet only."""
    reserved: dict[str, IPv4Address] = msgspec.field(default_factory=dict)
    """`--aux-address`: never handed out."""


class NetworkSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    name: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    driver: str = "overlay"
    options: dict[str, str] = msgspec.field(default_factory=dict)
    """Driver options as given; what they mean is in the fields below, parsed at the border."""
    pools: tuple[Pool, ...] = ()
    """Empty: one subnet from the cluster's default pool."""
    vnis: tuple[Vni, ...] = ()
    """Asked for by `com.docker.network.driver.overlay.vxlanid_list`; empty: choose."""
    mtu: int | None = None
    """Asked for by `com.docker.network.driver.mtu`; None: from the underlay."""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    encrypted: bool = False
    icv_bits: IcvBits = 64
    """Length of the integrity check value of each sealed packet, if encrypted."""


class Segment(msgspec.Struct, frozen=True):
    """One layer-2 segment: a subnet with its VNI. Segment i of a network is `br<i>` and
    `vxlan<i>`."""

    subnet: IPv4Network
    gateway: IPv4Address
    vni: Vni

    @property
    def gateway_interface(self) -> IPv4Interface:
        return IPv4Interface(f"{self.gateway}/{self.subnet.prefixlen}")


class Network(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: NetworkId
    spec: NetworkSpec
    segments: tuple[Segment, ...] = ()
    """Empty until the allocator has been here."""
    cursor: int = 0
    """The address handed out last, as an integer: the search for the next begins behind it
    (next-fit)."""
    error: str = ""
    """Why the allocator could not give it a subnet or a VNI."""
    meta: Meta = Meta()

    @property
    def name(self) -> str:
        return self.spec.name
