"""A capture: which packets are wanted, and what the nodes and their manager say of them.

    agent ── CaptureFrame ─▶ manager ── CaptureEvent ─▶ weft capture ─▶ pcapng, or a line per packet

A frame's packets are records, one after the other: `HEADER`, then the packet's first bytes. The
nodes make them, the command reads them, and nobody between looks inside.
"""

import struct
from collections.abc import Iterator

import msgspec

from weft.errors import InvalidArgument
from weft.model.ids import NetworkId, ServiceId, TaskId
from weft.model.meta import Nanoseconds

HEADER = struct.Struct("<QIIB")
"""Time of the packet, its length on the wire, the number of bytes that follow, and 1 if it was
sent, 0 if it was received."""
MAX_INSTRUCTIONS = 4096
"""The kernel's limit on the length of a filter (BPF_MAXINSNS)."""
MAX_PACKET = 65_535 + 18
"""Bytes of a packet that can be kept: the largest one that segmentation offload makes."""

Instruction = tuple[int, int, int, int]
"""Of classic BPF: code, jump if true, jump if false, operand."""


class CaptureWanted(msgspec.Struct, frozen=True, kw_only=True):
    network: NetworkId | None = None
    """All containers on this network, and each node's tunnel; None: see below."""
    service: ServiceId | None = None
    """The interfaces of its tasks on all of their overlays."""
    task: TaskId | None = None
    """The task's interfaces on all of its overlays."""
    wire: bool = False
    """Also what the nodes send each other: VXLAN and ESP, as the underlay sees it."""
    filter: tuple[Instruction, ...] = ()
    """Which packets, and how many bytes of each; empty: all. It does not concern `wire`."""


class CaptureFrame(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Some packets of one node."""

    now: Nanoseconds
    """The node's clock when the frame was made."""
    caught_up: bool = False
    """All packets that the node has seen were told, in this frame or before, except those of the
    last 0.1 s."""
    opened: tuple[tuple[int, str], ...] = ()
    """Interfaces from which packets come from now on: a number and a name, `webapp.1/eth0`."""
    packets: tuple[tuple[int, bytes], ...] = ()
    """Number of the interface, and records."""
    dropped: tuple[tuple[int, int], ...] = ()
    """Number of the interface, and how many packets were lost there since the last frame because
    nobody took them in time."""
    failed: tuple[str, ...] = ()
    """Interfaces that could not be watched, and why."""


class CaptureNames(msgspec.Struct, frozen=True, tag=True):
    """The first event."""

    names: tuple[tuple[str, str], ...]
    """IPv4 addresses and names that they have on the captured networks."""


class NodePackets(msgspec.Struct, frozen=True, tag=True):
    node: str
    """Its hostname."""
    ahead: Nanoseconds
    """By how much the node's clock is ahead of the manager's; 0 if less than what can be told."""
    frame: CaptureFrame


class NodeGone(msgspec.Struct, frozen=True, tag=True):
    """The node sends no more, for now."""

    node: str
    cause: str


class CaptureFailed(msgspec.Struct, frozen=True, tag=True):
    """The last event, if the manager cannot go on."""

    cause: str


CaptureEvent = CaptureNames | NodePackets | NodeGone | CaptureFailed
Record = tuple[Nanoseconds, int, int, bytes]
"""Of a packet: its time, bytes on the wire, 1 if it was sent, and its first bytes. No class of its
own: there are hundreds of thousands a second."""


def records(data: bytes) -> Iterator[Record]:
    """Raises `InvalidArgument` if the data ends within a record."""
    at, end, size, unpack = 0, len(data), HEADER.size, HEADER.unpack_from
    while at < end:
        if at + size > end:
            raise InvalidArgument("a capture's data ends within a record")
        time, length, kept, sent = unpack(data, at)
        start = at + size
        at = start + kept
        if at > end:
            raise InvalidArgument("a capture's data ends within a record")
        yield time, length, sent, data[start:at]
