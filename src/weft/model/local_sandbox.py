"""The network of one of this node's own containers: a network namespace, its endpoints on bridge
networks and on networks of the swarm, and the ports that the host publishes for it. Kept on disk
while the container runs."""

import hashlib
from ipaddress import IPv4Interface, IPv6Interface

import msgspec

from weft.model.addresses import Address, MacAddress
from weft.model.ids import AttachmentId, ContainerId, NetworkId
from weft.model.lookup import matches
from weft.model.service import PublishedPort


class BridgeEndpoint(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    network: NetworkId
    number: int
    """The container's interface is `eth<number>`. Unique in the sandbox while the endpoint lasts."""
    address: IPv4Interface
    mac: MacAddress
    aliases: tuple[str, ...] = ()
    """As the user gave them."""
    ipv6_address: IPv6Interface | None = None
    """None on a network without IPv6."""


class OverlayEndpoint(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A place on a network of the swarm, which a manager has granted."""

    network: NetworkId
    name: str
    """The network's."""
    attachment: AttachmentId
    number: int
    """As of `BridgeEndpoint`."""
    port: int
    """The container's port on the network's bridge is `veth<port>`."""
    address: IPv4Interface
    aliases: tuple[str, ...] = ()
    """As the user gave them."""


class LocalSandbox(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    container: ContainerId
    name: str
    """The container's name, by which others find it."""
    endpoints: tuple[BridgeEndpoint, ...] = ()
    """None on the network `none`."""
    overlays: tuple[OverlayEndpoint, ...] = ()
    gateway: IPv4Interface | None = None
    """The address on docker_gwbridge, used if no bridge network leads outside; None until the first
    overlay."""
    gateway_number: int = 0
    """The interface there is `eth<gateway_number>`."""
    ports: tuple[PublishedPort, ...] = ()
    """With the host's ports that were chosen."""
    sysctls: dict[str, str] = {}
    dns_servers: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    hostname: str = ""

    def overlay(self, reference: str) -> OverlayEndpoint | None:
        """The place on a network of the swarm. `reference`: its name, id or the beginning of its
        id."""
        found = matches(reference, self.overlays, lambda e: (e.network,), lambda e: (e.name,))
        return next(iter(found.objects), None)

    @property
    def numbers(self) -> set[int]:
        """Of the interfaces that there are, or may be."""
        found = {e.number for e in self.endpoints} | {e.number for e in self.overlays}
        return found if self.gateway is None else found | {self.gateway_number}

    @property
    def addresses(self) -> tuple[IPv4Interface, ...]:
        """Without that on docker_gwbridge."""
        return (*(e.address for e in self.endpoints), *(e.address for e in self.overlays))

    @property
    def own_addresses(self) -> tuple[Address, ...]:
        """Of both families, without that on docker_gwbridge; network by network."""
        pairs = ((e.address, e.ipv6_address) for e in self.endpoints)
        own = (each.ip for pair in pairs for each in pair if each is not None)
        return (*own, *(e.address.ip for e in self.overlays))

    @property
    def id(self) -> str:
        """64 hexadecimal digits. The same for each start of the container, so that the container's
        configuration can name the namespace."""
        return sandbox_id(self.container)

    @property
    def key(self) -> str:
        """Name of the namespace under /run/docker/netns."""
        return self.id[:12]


def sandbox_id(container: ContainerId) -> str:
    return hashlib.sha256(f"sandbox\0{container}".encode()).hexdigest()
