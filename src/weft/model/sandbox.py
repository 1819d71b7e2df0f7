"""A node's knowledge of itself: its place on the underlay, and the sandboxes of its workloads.

A sandbox is a container's network namespace. The node chooses its name, its address on
docker_gwbridge and the numbers of its veths, and keeps them on disk. They never change while the
sandbox exists, so planning twice gives the same names.
"""

from ipaddress import IPv4Address, IPv4Interface
from typing import Literal

import msgspec

from weft.model.addresses import DEFAULT_UNDERLAY_MTU, Port, PortKey
from weft.model.ids import ContainerId, NetworkId, NodeId, WorkloadId

GATEWAY_BRIDGE = "docker_gwbridge"
GATEWAY_INTERFACE = IPv4Interface("172.18.0.1/16")
"""The first free local pool; on a fresh host it is this one."""
RESOLVER_ADDRESS = IPv4Address("127.0.0.11")
RESOLVER_PORT: Port = 61053
"""The port on which the node's resolver listens inside a sandbox. 127.0.0.11:53 is redirected to
it, so that a container may serve port 53 itself. It is above the ephemeral range, so that no
outgoing connection takes it."""


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    """64 hexadecimal digits, as `docker inspect` shows it."""
    workload: WorkloadId = msgspec.field(name="task")
    """Named `task` on disk, as in files of earlier daemons."""
    container: ContainerId
    gateway: IPv4Interface
    """The sandbox's address on docker_gwbridge, used unless all its networks are internal."""
    ports: dict[NetworkId, int] = msgspec.field(default_factory=dict)
    """For each network n, the container's port on the overlay bridge is `veth<ports[n]>`. Numbers
    start at 1; 0 is the load balancer's."""
    interfaces: dict[NetworkId, int] = msgspec.field(default_factory=dict)
    """For each network n, the container's interface is `eth<interfaces[n]>`; without an entry, its
    number is the attachment's place in the workload's order."""
    outlet: int | None = None
    """The interface on docker_gwbridge is `eth<outlet>`; None: it is the last one."""

    def interface(self, network: NetworkId, place: int) -> str:
        """The container's interface on the network. `place`: of the attachment, from 0."""
        return f"eth{self.interfaces.get(network, place)}"

    @property
    def key(self) -> str:
        """Name of the namespace under /run/docker/netns."""
        return self.id[:12]


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    data_path_address: IPv4Address
    underlay_mtu: int = DEFAULT_UNDERLAY_MTU
    """MTU of the interface with the data path address."""
    gateway: IPv4Interface = GATEWAY_INTERFACE
    """docker_gwbridge's own address."""
    esp_engine: Literal["kernel", "userspace"] | None = None
    """The engine that encrypts on this node; None if there is none."""
    own_ports: frozenset[PortKey] = frozenset()
    """Ports on which the daemon listens, or may listen later: a worker may become a manager."""

    @property
    def ingress_gateway(self) -> IPv4Interface:
        """The address of `ingress_sbox` on docker_gwbridge: the first after the bridge's."""
        return IPv4Interface(f"{self.gateway.ip + 1}/{self.gateway.network.prefixlen}")
