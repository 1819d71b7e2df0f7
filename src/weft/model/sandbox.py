"""What a node knows of itself: its own place on the underlay, and the sandboxes it gave to its
workloads.

A sandbox is a container's network namespace. Its name, its address on docker_gwbridge and the
numbers of its veths are chosen by the node, kept on disk, and never change while the sandbox lives:
planning twice gives the same names.
"""

from ipaddress import IPv4Address, IPv4Interface
from typing import Literal

import msgspec

from weft.model.addresses import DEFAULT_UNDERLAY_MTU, Port, PortKey
from weft.model.ids import ContainerId, NetworkId, NodeId, WorkloadId

GATEWAY_BRIDGE = "docker_gwbridge"
GATEWAY_INTERFACE = IPv4Interface("172.18.0.1/16")
"""The first free local pool, which on a fresh host is this one."""
RESOLVER_ADDRESS = IPv4Address("127.0.0.11")
RESOLVER_PORT: Port = 61053
"""Where the node listens inside a sandbox; 127.0.0.11:53 is sent there, so that a container may
serve port 53 itself. Above the ephemeral range, so that no outgoing connection takes it."""


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    """64 hexadecimal digits, as `docker inspect` shows it."""
    workload: WorkloadId = msgspec.field(name="task")
    """`task` on disk, where those are that an earlier daemon made."""
    container: ContainerId
    gateway: IPv4Interface
    """Its address on docker_gwbridge, used unless all its networks are internal."""
    ports: dict[NetworkId, int] = msgspec.field(default_factory=dict)
    """For each network n: the container's port on the overlay bridge is `veth<ports[n]>`; from 1, 0
    is the load balancer's."""

    @property
    def key(self) -> str:
        """Name of the namespace under /run/docker/netns."""
        return self.id[:12]


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    node: NodeId
    data_path_address: IPv4Address
    underlay_mtu: int = DEFAULT_UNDERLAY_MTU
    """Of the interface that has the data path address."""
    gateway: IPv4Interface = GATEWAY_INTERFACE
    """docker_gwbridge's own address."""
    esp_engine: Literal["kernel", "userspace"] | None = None
    """What seals encrypted networks here; None: nothing can."""
    own_ports: frozenset[PortKey] = frozenset()
    """What the daemon listens on, or may: a worker becomes a manager."""

    @property
    def ingress_gateway(self) -> IPv4Interface:
        """`ingress_sbox`'s address on docker_gwbridge: the first after the bridge's."""
        return IPv4Interface(f"{self.gateway.ip + 1}/{self.gateway.network.prefixlen}")
