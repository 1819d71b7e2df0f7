"""Packets as the kernel hands them over: what is seen, filtered, lost, and the end of an
interface."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from tests.kernel.throwaway import in_throwaway, sh
from weft.errors import OperationFailed
from weft.lens.capture.filters import compiled
from weft.linux.packet_ring import BLOCK, PacketRing, attach_filter
from weft.model.capture import Instruction, records
from weft.network.vantage import wire_filter

MEMORY = 4 * BLOCK
TYPE = b"\x88\xb5"
"""An EtherType for experiments, which the kernel itself never sends."""


def two_interfaces() -> None:
    sh("ip link add here type veth peer name there; sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
    sh("ip link set here up; ip link set there up")


def frame(text: bytes, kind: bytes = TYPE) -> bytes:
    return bytes(5) + b"\x01" + bytes(5) + b"\x02" + kind + text.ljust(50, b"\0")


class Packet(NamedTuple):
    """Of `records`."""

    time: int
    length: int
    sent: int
    data: bytes


class Wire:
    """Sends frames by `here`; what arrives at `there` is watched."""

    def __init__(self, program: tuple[Instruction, ...], device: str) -> None:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        if program:
            attach_filter(opened, program)
        self.ring = PacketRing(opened, device, MEMORY)
        self.sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self.sender.bind(("here", 0))

    async def until(self, last: bytes) -> list[Packet]:
        """All packets up to one with that text."""
        found: list[Packet] = []
        async with asyncio.timeout(20):
            while not any(last in each.data for each in found):
                found += map(Packet._make, records(await self.ring.read()))
        return found


@asynccontextmanager
async def wire(program: tuple[Instruction, ...] = (), device: str = "there") -> AsyncIterator[Wire]:
    made = Wire(program, device)
    try:
        yield made
    finally:
        made.ring.close()
        made.sender.close()


def on_a_wire(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    def run() -> None:
        two_interfaces()
        asyncio.run(test())

    run.__name__ = test.__name__
    return in_throwaway(run)


@on_a_wire
async def test_packets_come_with_time_length_and_direction() -> None:
    async with wire() as there, wire(device="here") as here:
        before = time.time_ns()
        there.sender.send(frame(b"hello"))
        (received,) = await there.until(b"hello")
        (sent,) = await here.until(b"hello")
        assert before <= sent.time <= received.time <= time.time_ns()
    assert (received.sent, sent.sent) == (False, True)
    assert received.data == sent.data == frame(b"hello")
    assert received.length == 64


@on_a_wire
async def test_a_filter_chooses_packets_and_cuts_them() -> None:
    async with wire(compiled("ether proto 0x88b6", 20)) as there:
        there.sender.send(frame(b"no"))
        there.sender.send(frame(b"yes", b"\x88\xb6"))
        (only,) = await there.until(b"yes")
    assert (only.length, only.data) == (64, frame(b"yes", b"\x88\xb6")[:20])


@on_a_wire
async def test_the_filter_of_the_underlay_takes_tunnels_and_nothing_else() -> None:
    def packet(protocol: int, port: int, fragment: int = 0, options: int = 0) -> bytes:
        head = bytes((0x45 + options, 0, 0, 60, 0, 0, fragment >> 8, fragment & 255, 64, protocol))
        body = bytes(10) + bytes(4 * options) + bytes(2) + port.to_bytes(2, "big")
        return bytes(12) + b"\x08\x00" + head + body + b"%d/%d" % (protocol, port) + bytes(20)

    async with wire(wire_filter(4789)) as there:
        for each in (
            packet(17, 53), packet(6, 4789), packet(17, 4789, fragment=185), frame(b"x"),
            packet(17, 4789), packet(17, 4789, options=2), packet(50, 1), packet(17, 4789)[:-5] + b"last!",
        ):  # fmt: skip
            there.sender.send(each)
        found = await there.until(b"last!")
    assert [each.data[23] for each in found] == [17, 17, 50, 17]


@on_a_wire
async def test_what_does_not_fit_is_dropped_and_counted() -> None:
    async with wire() as there:
        for _ in range(3 * MEMORY // 1500):
            there.sender.send(frame(bytes(1400)))
        lost = there.ring.dropped()
        assert lost > 0
        assert there.ring.dropped() == 0
        seen = 0
        while seen + lost < 3 * MEMORY // 1500:
            seen += len(list(records(await there.ring.read())))
        there.sender.send(frame(b"after"))
        assert len(await there.until(b"after")) == 1


@on_a_wire
async def test_an_interface_that_goes_is_an_error_for_its_reader() -> None:
    async with wire() as there:
        reading = asyncio.create_task(there.ring.read())
        await asyncio.sleep(0)
        sh("ip link del here")
        with pytest.raises(OperationFailed, match="the interface is gone"):
            async with asyncio.timeout(20):
                await reading


@on_a_wire
async def test_an_interface_that_is_not_there_is_named() -> None:
    with pytest.raises(OperationFailed, match="cannot watch interface nope: No such device"):
        async with wire(device="nope"):
            pass


@in_throwaway
def test_a_program_that_the_kernel_refuses_is_an_error() -> None:
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as opened,
        pytest.raises(OperationFailed, match="cannot use the filter: Invalid argument"),
    ):
        attach_filter(opened, ((0x15, 200, 200, 0),))
