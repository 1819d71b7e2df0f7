"""What a node's kernel has counted for its tasks, networks and ways, for `weft top`. All counts only
grow; the command makes rates of two of them."""

import msgspec

from weft.model.meta import SECOND, Nanoseconds

SHORTEST, LONGEST = SECOND, 60 * SECOND
"""Between two readings."""


class Carried(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What interfaces have carried, as seen from where they are."""

    received: int = 0
    """Bytes."""
    sent: int = 0
    received_packets: int = 0
    sent_packets: int = 0
    dropped: int = 0
    """Packets, in either direction."""
    errors: int = 0

    def __add__(self, other: "Carried") -> "Carried":
        return Carried(
            self.received + other.received,
            self.sent + other.sent,
            self.received_packets + other.received_packets,
            self.sent_packets + other.sent_packets,
            self.dropped + other.dropped,
            self.errors + other.errors,
        )


class TcpCounts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Of a network namespace; RFC 4022 has the names that the kernel uses."""

    accepted: int = 0
    """PassiveOpens"""
    opened: int = 0
    """ActiveOpens"""
    failed: int = 0
    """AttemptFails: refused, or without an answer."""
    reset: int = 0
    """EstabResets"""
    established: int = 0
    """CurrEstab: how many there are now."""
    retransmitted: int = 0
    """RetransSegs"""


class TaskCounts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    name: str
    """`webapp.1`, or a container's."""
    service: str
    """Empty for a container of a user."""
    mesh: Carried
    """By the routing mesh: the interface on the ingress network."""
    overlay: Carried
    """By all other networks of the swarm: virtual addresses, and tasks directly."""
    outside: Carried
    """By docker_gwbridge and this node's own networks."""
    tcp: TcpCounts


class NetworkCounts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The tunnels of one network on this node."""

    name: str
    tunnel: Carried


class Way(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The way to another host."""

    node: str
    """Its id."""
    round_trip: Nanoseconds
    """-1: no answer."""


class TopFrame(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A part of a reading. The first frame comes at once and is empty."""

    now: Nanoseconds = 0
    """The node's clock when it was read."""
    tasks: tuple[TaskCounts, ...] = ()
    networks: tuple[NetworkCounts, ...] = ()
    ways: tuple[Way, ...] = ()
    underlay: Carried | None = None
    """The host's interface with the data path address."""
    names_answered: int = 0
    """Questions for names that were answered, here or by other servers."""
    names_failed: int = 0
    """Of these, with an error other than that there is no such name."""
    left_out: int = 0
    """Tasks and ways that are not told, because there are too many."""
    failed: tuple[str, ...] = ()
    """What could not be read, and why."""
    is_last: bool = False
    """The reading is whole."""

    @property
    def is_small(self) -> bool:
        return not self.tasks


class TopWanted(msgspec.Struct, frozen=True, kw_only=True):
    every: Nanoseconds = 2 * SECOND
    once: bool = False
    """Two readings, and no more."""
