"""This node's part in a swarm: what is asked for when it begins or joins one, and what it is
then."""

from ipaddress import IPv4Network
from typing import Literal

import msgspec

from weft.model.cluster import ClusterSpec
from weft.model.ids import NodeId

LocalSwarmState = Literal["inactive", "pending", "active", "error", "locked"]


class InitRequest(msgspec.Struct, frozen=True, kw_only=True):
    force_new_cluster: bool = False
    """Of a node that is a manager already: it goes on as the only one."""
    listen_address: str = "0.0.0.0:2377"
    advertise_address: str = ""
    data_path_address: str = ""
    data_path_port: int = 0
    availability: Literal["active", "pause", "drain"] = "active"
    """Of the node that begins it."""
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
        """Without the token, which is a secret."""
        return f"JoinRequest({', '.join(self.remote_addresses)})"


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """This node's part in a swarm."""

    state: LocalSwarmState = "inactive"
    node: NodeId | None = None
    address: str = ""
    """The address it advertises."""
    is_manager: bool = False
    error: str = ""
    managers: tuple[tuple[NodeId, str], ...] = ()
    """Managers that it knows: (id, host:port)."""
