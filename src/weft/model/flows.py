"""Connections as the hosts' connection tracking knows them, for `weft flows`.

    kernel ── Tracked ─▶ agent ── FlowsFrame ─▶ manager ─▶ weft flows (lens/flows joins them)

One connection is tracked at several places: in both containers' namespaces, and on a host that
translates its addresses. Each place is an observation. The command joins observations of all nodes:
what leaves one place is what arrives at the next.
"""

from ipaddress import IPv4Address
from typing import Literal, NamedTuple

import msgspec

from weft.model.ids import ServiceId
from weft.model.meta import Nanoseconds

State = Literal["unanswered", "open", "closing", "reset", "refused"]
"""unanswered   nothing has come back yet
open         packets have gone both ways
closing      a side has ended it; TCP remembers it for a while
reset        it was open, and a side has reset it
refused      a reset was the only answer"""
STATES: tuple[State, ...] = ("unanswered", "open", "closing", "reset", "refused")
"""Of two places, the one that knows the later state has seen more."""


class Sides(NamedTuple):
    """The addresses and ports of a connection's first packet. Instead of ports, ICMP has an
    identifier, as the source's port."""

    source: IPv4Address
    source_port: int
    target: IPv4Address
    target_port: int


class Traffic(NamedTuple):
    packets: int
    bytes: int


class Tracked(NamedTuple):
    """A connection at one place."""

    protocol: int
    """Of IP."""
    asked: Sides
    """As the first packet came to this place."""
    carried: Sides
    """As it left: after all translation here."""
    state: State
    sent: Traffic | None = None
    """From source to target; None where the kernel does not count (nf_conntrack_acct)."""
    received: Traffic | None = None


class TrackedChange(NamedTuple):
    tracked: Tracked
    ended: bool
    """The kernel has forgotten it."""


class TrackedTable(NamedTuple):
    """What one namespace tracks."""

    entries: tuple[Tracked, ...]
    is_whole: bool
    """False if there are more."""
    counts: bool
    """Whether bytes and packets of new connections are counted there."""


Kind = Literal["task", "service", "container", "node", "outside"]


class Party(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who has an address. `service`: its virtual address."""

    address: str
    kind: Kind
    name: str
    """`webapp.1`, a service's, a container's; a node's id; of `outside`, the address."""
    service: str = ""
    """The task's."""
    is_local: bool = False
    """Whether the address means something else, or nothing, on other nodes."""


class PartySides(NamedTuple):
    """`Sides` with parties, by their number in the frame."""

    source: int
    source_port: int
    target: int
    target_port: int


class Observation(msgspec.Struct, frozen=True, array_like=True, gc=False):
    place: int
    protocol: int
    asked: PartySides
    carried: PartySides
    state: State
    sent: Traffic | None = None
    received: Traffic | None = None
    ended: bool = False


class FlowsFrame(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Some of the connections of a node. The first frame comes at once and may be empty."""

    now: Nanoseconds = 0
    """The node's clock when the frame was made."""
    opened: tuple[tuple[int, str], ...] = ()
    """Places of which is told from now on: a number, and the container's name or `host`."""
    closed: tuple[int, ...] = ()
    """Places that are gone, with their connections."""
    parties: tuple[Party, ...] = ()
    seen: tuple[Observation, ...] = ()
    is_table: bool = False
    """These were read, and may be old; otherwise they have just changed."""
    uncounted: int = 0
    """Places, of the opened ones, where the kernel does not count bytes and packets."""
    left_out: int = 0
    """Places with more connections than are told."""
    lost: int = 0
    """How often changes came faster than they were taken: what was missed is read again."""
    failed: tuple[str, ...] = ()
    """Places that could not be read, and why."""

    @property
    def is_small(self) -> bool:
        return not self.seen


class FlowsWanted(msgspec.Struct, frozen=True, kw_only=True):
    follow: bool = False
    """Go on and tell changes, until the reader goes."""
    service: ServiceId | None = None
    """Only connections of this service. The command picks them: a host that passes a connection on
    does not know its other end."""
