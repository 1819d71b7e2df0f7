"""The packets of one interface, as the kernel copies them into memory that it shares with this
process: a ring of blocks (`Documentation/networking/packet_mmap.rst`, TPACKET_V3).

The kernel fills a block, hands it over when it is full or `RETIRE` has passed, and takes it back
when it was read. If no block is free, it drops packets of this ring and counts them; the interface
never waits.

Numbers: `include/uapi/linux/if_packet.h`, `include/uapi/asm-generic/socket.h`.
"""

import asyncio
import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.linux import netns
from weft.model.capture import HEADER, MAX_PACKET, Instruction

SOL_PACKET = 263
PACKET_RX_RING = 5
PACKET_STATISTICS = 6
PACKET_VERSION = 10
TPACKET_V3 = 2
SO_ATTACH_FILTER = 26
ETH_P_ALL = 3
PACKET_OUTGOING = 4
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1

BLOCK = 128 << 10
"""Bytes. A block is read in one go, so this bounds how long reading holds the event loop: about 800
packets of 100 bytes."""
RETIRE = 100
"""Milliseconds after which a block is handed over that is not full."""
_FRAME = 2048
_REQUEST = struct.Struct("=7I")
"""struct tpacket_req3: block_size, block_nr, frame_size, frame_nr, retire_blk_tov, sizeof_priv,
feature_req_word."""
_BLOCK_STATUS = struct.Struct("=I")
_STATUS_AT = 8
_BLOCK_HEAD = struct.Struct("=II")
"""num_pkts and offset_to_first_pkt, behind the status."""
_PACKET = struct.Struct("=IIIIIIH32xB")
"""struct tpacket3_hdr (next_offset, sec, nsec, snaplen, len, status, mac), and sll_pkttype of the
struct sockaddr_ll that follows it."""
_COUNTS = struct.Struct("=III")
"""struct tpacket_stats_v3: packets, drops, freezes."""
_INSTRUCTION = struct.Struct("=HBBI")


class PacketRing:
    """Packets from now on. Must be closed."""

    def __init__(self, opened: socket.socket, device: str, memory: int) -> None:
        """`opened`: an AF_PACKET socket in the interface's namespace, which this ring closes.
        `memory`: bytes of the ring, rounded to blocks. Raises `OperationFailed`; the socket is then
        closed too."""
        self._socket = opened
        self._blocks = max(2, memory // BLOCK)
        self._next = 0
        self._ready = asyncio.Event()
        try:
            opened.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
            size = self._blocks * BLOCK
            ring = _REQUEST.pack(BLOCK, self._blocks, _FRAME, size // _FRAME, RETIRE, 0, 0)
            opened.setsockopt(SOL_PACKET, PACKET_RX_RING, ring)
            self._memory = mmap.mmap(opened.fileno(), size, mmap.MAP_SHARED)
            opened.bind((device, ETH_P_ALL))
        except OSError as error:
            opened.close()
            raise OperationFailed(f"cannot watch interface {device}: {cause_of(error)}") from error
        asyncio.get_running_loop().add_reader(opened.fileno(), self._ready.set)

    async def read(self) -> bytes:
        """Records (`model/capture.py`) of at least one packet. Raises `OperationFailed` if the
        interface is gone."""
        while True:
            if not self.is_waiting:
                taken = self._take(self._next * BLOCK)
                self._next = (self._next + 1) % self._blocks
                if taken:
                    return taken
                continue
            self._check()
            self._ready.clear()
            await self._ready.wait()

    @property
    def is_waiting(self) -> bool:
        """Whether the kernel has handed over no block that was not read."""
        (status,) = _BLOCK_STATUS.unpack_from(self._memory, self._next * BLOCK + _STATUS_AT)
        return not status & TP_STATUS_USER

    def dropped(self) -> int:
        """Packets that were lost since the last call."""
        answer = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, _COUNTS.size)
        return int(_COUNTS.unpack(answer)[1])

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()
        self._memory.close()

    def _take(self, at: int) -> bytes:
        """The packets of the block, which the kernel has again afterwards."""
        memory, found = self._memory, list[bytes]()
        count, offset = _BLOCK_HEAD.unpack_from(memory, at + _STATUS_AT + _BLOCK_STATUS.size)
        place, unpack, pack = at + offset, _PACKET.unpack_from, HEADER.pack
        for _ in range(count):
            step, seconds, nanoseconds, kept, length, _status, start, kind = unpack(memory, place)
            kept = min(kept, MAX_PACKET)
            time = seconds * 10**9 + nanoseconds
            head = pack(time, length, kept, kind == PACKET_OUTGOING)
            found.append(head + memory[place + start : place + start + kept])
            place += step
        _BLOCK_STATUS.pack_into(memory, at + _STATUS_AT, TP_STATUS_KERNEL)
        return b"".join(found)

    def _check(self) -> None:
        """An interface that is removed or goes down leaves an error at the socket."""
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OperationFailed(f"the interface is gone: {os.strerror(code)}")


def attach_filter(opened: socket.socket, program: Sequence[Instruction]) -> None:
    """Lets the socket take only the packets that the program wants. Raises `OperationFailed` if the
    kernel refuses the program."""
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    pointer = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    try:
        opened.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)
    except OSError as error:
        raise OperationFailed(f"cannot use the filter: {cause_of(error)}") from error


async def open_ring(
    namespace: Path | None, device: str, program: Sequence[Instruction], memory: int
) -> PacketRing:
    """`namespace`: its file; None for the host's. Raises `OperationFailed`."""
    opened = await netns.open_socket(namespace, socket.AF_PACKET, socket.SOCK_RAW)
    try:
        if program:
            attach_filter(opened, program)
    except OperationFailed:
        opened.close()
        raise
    return PacketRing(opened, device, memory)
