"""This node's membership in a swarm: requests to create or join one, and the result."""

from ipaddress import IPv4Network
from typing import Literal

import msgspec

from weft.model.cluster import ClusterSpec
from weft.model.ids import NodeId

LocalSwarmState = Literal["inactive", "pending", "active", "error", "locked"]


class InitRequest(msgspec.Struct, frozen=True, kw_only=True):
    force_new_cluster: bool = False
    """For a node that is a manager already: the node goes on as the only manager."""
    listen_address: str = "0.0.0.0:2377"
    advertise_address: str = ""
    data_path_address: str = ""
    data_path_port: int = 0
    availability: Literal["active", "pause", "drain"] = "active"
    """Availability of the node that creates the swarm."""
    default_pool: tuple[IPv4Network, ...] = ()
    subnet_size: int = 0
    spec: ClusterSpec = ClusterSpec()


class JoinRequest(msgspec.Struct, frozen=True, kw_only=True):
    listen_address: str = "0.0.0.0:2377"
    advertise_address: str = ""
    data_path_address: str = ""
    remote_addresses: tuple[str, ...]
    token: str
    availability: Literal["active", "pause", "drain"] = "active"

    def __repr__(self) -> str:
        """Leaves out the token, which is a secret."""
        return f"JoinRequest({', '.join(self.remote_addresses)})"


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """This node's membership in a swarm."""

    state: LocalSwarmState = "inactive"
    node: NodeId | None = None
    address: str = ""
    """The address that the node advertises."""
    is_manager: bool = False
    error: str = ""
    managers: tuple[tuple[NodeId, str], ...] = ()
    """Managers that the node knows: (id, host:port)."""
