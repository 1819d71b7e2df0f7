"""The values that a host gives its manager: ports to the outside, and the host's settings."""

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network

from weft.control.allocator.ports import NO_PORTS, OwnPorts
from weft.manager.authority import Authority
from weft.manager.autolock import Locked, NoFiles
from weft.manager.broker import no_relay
from weft.manager.members import ALONE, Refuse, no_door
from weft.manager.suspicion import Probe, any_host_answers
from weft.manager.vault import AskKeys, KeysInMemory, SealingKeys, no_other
from weft.model.meta import Nanoseconds
from weft.session.base import Echo, Relay


@dataclass(frozen=True, kw_only=True)
class ManagerPorts:
    clock: Callable[[], Nanoseconds]
    """The time since 1970."""
    entropy: Callable[[int], bytes]
    """Gives that many random bytes."""
    authority: Authority
    probe: Probe = any_host_answers
    """Tells whether a host answers after its session has ended."""
    open_echo: Callable[[], Echo] | None = None
    """How the host monitor asks hosts; None where it cannot."""
    relay: Relay = no_relay
    """How the manager sends requests to other managers."""
    sealing_keys: SealingKeys = field(default_factory=KeysInMemory)
    """The keys that seal secrets, on this manager's disk."""
    ask_keys: AskKeys = no_other
    """How the manager asks another one for those keys."""
    files: Locked = field(default_factory=NoFiles)
    """The files on this manager's disk that are locked while autolock is on."""
    refuse: Refuse = no_door
    """How the host's etcd member is made to refuse certificates."""


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    routes: tuple[IPv4Network, ...] = ()
    """Subnets that this host has routes to; other hosts report theirs in their sessions."""
    own_ports: OwnPorts = field(default_factory=lambda: NO_PORTS)
    """Ports that this host listens on beside the swarm's."""
    obstacle: str = ""
    """Why there can be no other manager beside this one; empty if there can."""
    no_members: str = ALONE
    """The error for a node that asks for an etcd member where there are none."""
