"""The network of one of this node's own containers: a network namespace, its endpoints on bridge
networks, and the ports that the host publishes for it. Kept on disk while the container runs."""

import hashlib
from ipaddress import IPv4Interface

import msgspec

from weft.model.addresses import MacAddress
from weft.model.ids import ContainerId, NetworkId
from weft.model.service import PublishedPort


class BridgeEndpoint(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    network: NetworkId
    number: int
    """The container's interface is `eth<number>`. Unique in the sandbox while the endpoint lasts."""
    address: IPv4Interface
    mac: MacAddress
    aliases: tuple[str, ...] = ()
    """As the user gave them."""


class LocalSandbox(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    container: ContainerId
    name: str
    """The container's name, by which others find it."""
    endpoints: tuple[BridgeEndpoint, ...] = ()
    """None on the network `none`."""
    ports: tuple[PublishedPort, ...] = ()
    """With the host's ports that were chosen."""
    sysctls: dict[str, str] = {}
    dns_servers: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    hostname: str = ""

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
