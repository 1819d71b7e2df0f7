"""Asks many hosts at once whether packets of a given size reach them: ICMP echo (RFC 792) with the
"don't fragment" bit, whatever path MTU the kernel remembers (IP_PMTUDISC_PROBE, ip(7))."""

import asyncio
import secrets
import socket
import struct
from collections.abc import Collection
from ipaddress import IPv4Address
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.linux import netns
from weft.linux.ping import ECHO, ECHO_REPLY, checksum

_HEADER = struct.Struct("!BBHHH")
"""type, code, checksum, identifier, sequence number"""
IP_HEADER = 20
SMALLEST = IP_HEADER + _HEADER.size
_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
_LARGEST = 65535
ATTEMPTS = 3

Question = tuple[IPv4Address, int]
"""An address, and the bytes of the packet with its IP header."""


async def probe(
    questions: Collection[Question], seconds: float, inside: Path | None = None
) -> frozenset[Question]:
    """Those that were answered within that time. Each is asked up to `ATTEMPTS` times. `inside`: the
    namespace to ask from; None for the host's own. Raises `OperationFailed` if there is none."""
    asked = dict(enumerate(dict.fromkeys(questions)))
    found: set[Question] = set()
    identifier = secrets.randbits(16)
    with await _socket(inside) as echo:
        listening = asyncio.create_task(_listen(echo, asked, identifier, found))
        try:
            for _ in range(ATTEMPTS):
                _ask_all(echo, asked, identifier, found)
                await asyncio.wait((listening,), timeout=seconds / ATTEMPTS)
                if listening.done():
                    break
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    return frozenset(found)


async def _socket(inside: Path | None) -> socket.socket:
    def opened() -> socket.socket:
        echo = socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP
        )
        echo.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        return echo

    try:
        if inside is None:
            return opened()
        return await netns.on_thread(lambda: netns.run_in(inside, opened))
    except OSError as error:
        raise OperationFailed(f"cannot probe other hosts: {cause_of(error)}") from error


def _ask_all(
    echo: socket.socket, asked: dict[int, Question], identifier: int, found: set[Question]
) -> None:
    for number, question in asked.items():
        if question not in found:
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
    echo: socket.socket, asked: dict[int, Question], identifier: int, found: set[Question]
) -> None:
    loop = asyncio.get_running_loop()
    while len(found) < len(asked):
        packet = await loop.sock_recv(echo, _LARGEST)
        start = (packet[0] & 0x0F) * 4 if packet else 0
        if len(packet) < max(start, IP_HEADER) + _HEADER.size:
            continue
        kind, _, _, its, number = _HEADER.unpack_from(packet, start)
        question = asked.get(number)
        if question is None or question[0] != IPv4Address(packet[12:16]):
            continue
        if (kind, its) == (ECHO_REPLY, identifier):
            found.add(question)
