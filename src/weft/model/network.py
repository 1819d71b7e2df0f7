"""A network of the swarm. Users write the spec; the allocator writes segments and cursor."""

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import msgspec

from weft.errors import Exhausted
from weft.model.addresses import Vni
from weft.model.encryption import IcvBits
from weft.model.ids import NetworkId
from weft.model.meta import Meta


class Pool(msgspec.Struct, frozen=True, omit_defaults=True):
    """One subnet as the user asked for it."""

    subnet: IPv4Network
    gateway: IPv4Address | None = None
    ip_range: IPv4Network | None = None
    """The only part of the subnet from which addresses are given out."""
    reserved: dict[str, IPv4Address] = msgspec.field(default_factory=dict)
    """`--aux-address`: addresses that are never given out."""

    def gateway_or_first(self) -> IPv4Address:
        """The gateway asked for, else the subnet's first address that is not reserved. Raises
        `Exhausted`."""
        if self.gateway is not None:
            return self.gateway
        reserved = set(self.reserved.values())
        found = next((host for host in self.subnet.hosts() if host not in reserved), None)
        if found is None:
            raise Exhausted(f"cannot choose a gateway: no address is free in {self.subnet}")
        return found


class NetworkSpec(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    name: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    driver: str = "overlay"
    options: dict[str, str] = msgspec.field(default_factory=dict)
    """Driver options as given; the fields below hold their parsed values."""
    pools: tuple[Pool, ...] = ()
    """Empty: one subnet from the cluster's default pool."""
    vnis: tuple[Vni, ...] = ()
    """VNIs asked for by `com.docker.network.driver.overlay.vxlanid_list`; empty: the allocator
    chooses."""
    mtu: int | None = None
    """MTU asked for by `com.docker.network.driver.mtu`; None: derived from the underlay."""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    encrypted: bool = False
    icv_bits: IcvBits = 64
    """Length of the integrity check value of each encrypted packet."""
    names_starting: bool = False
    """Whether `tasks.<service>` also gives tasks that have been started and are not healthy yet."""


class Segment(msgspec.Struct, frozen=True):
    """One layer-2 segment: a subnet with its VNI. The devices of segment i of a network are `br<i>`
    and `vxlan<i>`."""

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
    """Empty until the allocator has served the network."""
    cursor: int = 0
    """The address given out last, as an integer; the search for the next one begins behind it
    (next-fit)."""
    error: str = ""
    """Why the allocator could not give the network a subnet or a VNI."""
    meta: Meta = Meta()

    @property
    def name(self) -> str:
        return self.spec.name
