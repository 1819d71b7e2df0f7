"""The marked packet that follows a trace's way, and what the hosts say of it.

    manager ── ProbeWanted ─▶ agents watch ─▶ Sighting … ─▶ manager judges (control/probe.py)

Several packets may be sent, each with a number of its own, where a service has several tasks: one of
them goes the way that was walked.
"""

from ipaddress import IPv4Address
from typing import NamedTuple

import msgspec

from weft.model.addresses import Port
from weft.model.ids import NodeId, TaskId
from weft.model.trace import Packet, Trace

MOST_PROBES = 16
"""Packets of one probe."""
FIRST_PORT, LAST_PORT = 61000, 65000
"""Source ports of probes: above those that Linux gives to programs (`ip_local_port_range`)."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """By what the packets of one probe are known."""

    protocol: str
    number: int
    """Of the first packet: 32 bits, a multiple of `MOST_PROBES`. With TCP it is the sequence number,
    which no translation changes; with UDP the payload begins with it."""
    count: int = 1
    port: Port
    """Source port of the first packet; the others have the next ones."""


class Spot(NamedTuple):
    """An interface of a node."""

    namespace: str
    device: str


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """Where the probe's packets are sent."""

    namespace: str
    source: IPv4Address
    destination: IPv4Address
    port: Port


class ProbeWanted(msgspec.Struct, frozen=True, kw_only=True):
    mark: Mark
    spots: tuple[Spot, ...] = ()
    """Interfaces to watch, without end."""
    task: TaskId | None = None
    """Watch all interfaces of this task too."""
    departure: Departure | None = None
    """Send the packets from here, once, in place of watching."""


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A packet of the probe, or its answer, at an interface."""

    spot: int
    """Its place among the spots that were asked for; one beyond them: an interface of the task."""
    number: int
    """Which packet of the probe, from 0."""
    answer: bool
    refused: bool = False
    """Of an answer: it says that nobody listens."""
    time: int
    """Nanoseconds since 1970 by the node's clock."""
    packet: Packet
    """As it was there; a tunnel's datagram where it was inside one."""


# --- the result


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One interface on the way that was walked."""

    id: NodeId
    node: str
    spot: Spot
    leg: int
    step: int
    """The step of the walk that brings the packet there: `legs[leg].passage.steps[step]`."""
    packet: Packet
    """As the walk has it there."""
    passed: bool | None = None
    """None: it could not be watched."""
    after: int = 0
    """Microseconds from the sending, clocks corrected as far as their difference is known."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the marked packet."""

    sent: bool
    verdict: str
    agrees: bool = True
    """Whether the walk says the same."""
    out: tuple[Hop, ...] = ()
    back: tuple[Hop, ...] = ()
    failures: tuple[str, ...] = ()
    """Interfaces that could not be watched, and why."""


class Probed(msgspec.Struct, frozen=True):
    """A trace, and what became of the packet that was sent after it."""

    trace: Trace
    probe: Probe | None = None
    """None: none was wanted."""
