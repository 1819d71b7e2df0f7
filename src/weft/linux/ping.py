"""Does a host answer? ICMP echo (RFC 792), which the kernel of the other host answers whatever becomes of its programs.

One raw socket for each question, open for as long as it lasts. It sees every ICMP packet of this host, and takes for an answer only an
echo reply from an address that was asked, with the identifier of this question.
"""

import asyncio
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

ECHO, ECHO_REPLY = 8, 0
_HEADER = struct.Struct("!BBHHH")
"""type, code, checksum, identifier, sequence number"""
MAX_PACKET = 2048


async def answers(addresses: Iterable[IPv4Address], identifier: int, seconds: float, attempts: int) -> bool:
    """Whether any of the host's addresses does, asked so often within that time. `identifier`: of 16 bits, this question's own."""
    asked = tuple(addresses)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP) as echo:
        answer = asyncio.ensure_future(_answer(echo, frozenset(asked), identifier))
        try:
            for number in range(attempts):
                _ask(echo, asked, identifier, number)
                await asyncio.wait([answer], timeout=seconds / attempts)
                if answer.done():
                    return True
            return False
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)


def _ask(echo: socket.socket, addresses: Iterable[IPv4Address], identifier: int, number: int) -> None:
    packet = _HEADER.pack(ECHO, 0, checksum(_HEADER.pack(ECHO, 0, 0, identifier, number)), identifier, number)
    for address in addresses:
        try:
            echo.sendto(packet, (str(address), 0))
        except OSError:  # no route, or a neighbour that is known not to answer: that is no answer
            continue


async def _answer(echo: socket.socket, asked: frozenset[IPv4Address], identifier: int) -> None:
    loop = asyncio.get_running_loop()
    while not is_answer(await loop.sock_recv(echo, MAX_PACKET), asked, identifier):
        pass


def is_answer(packet: bytes, asked: frozenset[IPv4Address], identifier: int) -> bool:
    """`packet`: with its IP header, as a raw socket gives it."""
    start = (packet[0] & 0x0F) * 4 if packet else 0
    if len(packet) < max(start, 20) + _HEADER.size:
        return False
    kind, _, _, its, _ = _HEADER.unpack_from(packet, start)
    return kind == ECHO_REPLY and its == identifier and IPv4Address(packet[12:16]) in asked


def checksum(data: bytes) -> int:
    """RFC 1071, of an even number of bytes."""
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
