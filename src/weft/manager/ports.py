"""What a manager is given by its host: ways to reach the outside, and what is set there."""

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from weft.control.allocator.ports import NO_PORTS, OwnPorts
from weft.manager.authority import Authority
from weft.manager.logs import no_relay
from weft.manager.members import ALONE, Refuse, no_door
from weft.manager.suspicion import Probe, any_host_answers
from weft.model.meta import Nanoseconds
from weft.session.base import Echo, Relay


@dataclass(frozen=True, kw_only=True)
class ManagerPorts:
    clock: Callable[[], Nanoseconds]
    """Since 1970."""
    entropy: Callable[[int], bytes]
    """So many random bytes."""
    authority: Authority
    probe: Probe = any_host_answers
    """Whether a host answers whose session has ended."""
    open_echo: Callable[[], Echo] | None = None
    """How all hosts are asked again and again; None where they cannot be."""
    relay: Relay = no_relay
    """How the manager asks other managers."""
    refuse: Refuse = no_door
    """How certificates are refused by the host's etcd member."""


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    routes: tuple[IPv4Network, ...] = ()
    """Subnets that this host has routes to; those of the others come with their sessions."""
    own_ports: OwnPorts = field(default_factory=lambda: NO_PORTS)
    """What this host listens on beside the swarm's ports."""
    obstacle: str = ""
    """Why there can be no other manager beside this one; empty if there can."""
    no_members: str = ALONE
    """What a node is told that wants a part of the store where there are none."""
