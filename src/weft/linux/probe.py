"""Asks many hosts at once whether packets of a given size reach them: ICMP echo (RFC 792) with the
"don't fragment" bit, whatever path MTU the kernel remembers (IP_PMTUDISC_PROBE, ip(7))."""

import asyncio
import secrets
import socket
import struct
import time
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.linux import netns
from weft.linux.ping import ECHO, ECHO_REPLY, checksum
from weft.model.meta import SECOND

_HEADER = struct.Struct("!BBHHH")
"""type, code, checksum, identifier, sequence number"""
IP_HEADER = 20
SMALLEST = IP_HEADER + _HEADER.size
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_LARGEST = 65535
_SO_TIMESTAMPNS, _STAMP = 35, struct.Struct("@ll")
"""`include/uapi/asm-generic/socket.h`, and the struct timespec that comes with each packet."""
ATTEMPTS = 3

Question = tuple[IPv4Address, int]
"""An address, and the bytes of the packet with its IP header."""


async def probe(
    questions: Collection[Question], seconds: float, inside: Path | None = None
) -> frozenset[Question]:
    """Those that were answered within that time. Each is asked up to `ATTEMPTS` times. `inside`: the
    namespace to ask from; None for the host's own. Raises `OperationFailed` if there is none."""
    return frozenset(await _asked(questions, seconds, inside, ATTEMPTS))


async def round_trips(
    addresses: Collection[IPv4Address], seconds: float
) -> dict[IPv4Address, float]:
    """Seconds until each host's kernel answered a small packet, by the time at which this one's
    received the answer; without those that did not answer in that time. Each is asked once."""
    asked = [(address, SMALLEST) for address in addresses]
    answers = await _asked(asked, seconds, None, 1)
    return {address: took for (address, _), took in answers.items()}


async def _asked(
    questions: Collection[Question], seconds: float, inside: Path | None, attempts: int
) -> dict[Question, float]:
    """Seconds from the last attempt to the answer."""
    asked = dict(enumerate(dict.fromkeys(questions)))
    found: dict[Question, float] = {}
    begun: dict[Question, int] = {}
    identifier = secrets.randbits(16)
    with await _socket(inside) as echo:
        listening = asyncio.create_task(_listen(echo, asked, identifier, begun, found))
        try:
            for _ in range(attempts):
                _ask_all(echo, asked, identifier, begun, found)
                await asyncio.wait((listening,), timeout=seconds / attempts)
                if listening.done():
                    break
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    return found


async def _socket(inside: Path | None) -> socket.socket:
    def opened() -> socket.socket:
        echo = socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP
        )
        echo.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        echo.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        return echo

    try:
        if inside is None:
            return opened()
        return await netns.on_thread(lambda: netns.run_in(inside, opened))
    except OSError as error:
        raise OperationFailed(f"cannot probe other hosts: {cause_of(error)}") from error


def _ask_all(
    echo: socket.socket,
    asked: dict[int, Question],
    identifier: int,
    begun: dict[Question, int],
    found: dict[Question, float],
) -> None:
    for number, question in asked.items():
        if question not in found:
            begun[question] = time.time_ns()
            _ask(echo, question, identifier, number)


def _ask(echo: socket.socket, question: Question, identifier: int, number: int) -> None:
    address, size = question
    filling = bytes((size - SMALLEST) // 2 * 2)
    summed = checksum(_HEADER.pack(ECHO, 0, 0, identifier, number) + filling)
    packet = _HEADER.pack(ECHO, 0, summed, identifier, number) + filling
    try:
        echo.sendto(packet, (str(address), 0))
    except OSError:  # too large for the interface, or no route: counts as no answer
        return


async def _listen(
    echo: socket.socket,
    asked: dict[int, Question],
    identifier: int,
    begun: dict[Question, int],
    found: dict[Question, float],
) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(echo.fileno(), ready.set)
    try:
        while len(found) < len(asked):
            await ready.wait()
            ready.clear()
            for packet, arrived in _waiting(echo):
                question = _answered(packet, asked, identifier)
                if question is not None:
                    took = max(0, arrived - begun[question]) / SECOND
                    found.setdefault(question, took)
    finally:
        loop.remove_reader(echo.fileno())


def _waiting(echo: socket.socket) -> Iterator[tuple[bytes, int]]:
    """The packets that wait, and when the kernel received each, in nanoseconds."""
    while True:
        try:
            packet, notes, _, _ = echo.recvmsg(_LARGEST, socket.CMSG_SPACE(_STAMP.size))
        except OSError:  # no more
            return
        stamps = [data for level, kind, data in notes if kind == _SO_TIMESTAMPNS]
        if stamps and len(stamps[0]) >= _STAMP.size:
            seconds, rest = _STAMP.unpack_from(stamps[0])
            yield packet, seconds * SECOND + rest
        else:
            yield packet, time.time_ns()


def _answered(packet: bytes, asked: dict[int, Question], identifier: int) -> Question | None:
    """The question that the packet answers."""
    start = (packet[0] & 0x0F) * 4 if packet else 0
    if len(packet) < max(start, IP_HEADER) + _HEADER.size:
        return None
    kind, _, _, its, number = _HEADER.unpack_from(packet, start)
    question = asked.get(number)
    if question is None or question[0] != IPv4Address(packet[12:16]):
        return None
    return question if (kind, its) == (ECHO_REPLY, identifier) else None
