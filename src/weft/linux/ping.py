"""ICMP echo (RFC 792): asks whether a host answers. The other host's kernel answers even if its
programs do not run.

`answers` asks one host, now, with a raw socket that is open only for this question. The socket sees
every ICMP packet of this host; only an echo reply from an asked address with the identifier of this
question counts as an answer. `EchoSocket` is for asking many hosts all the time; the kernel hands
it nothing but echo replies.
"""

import asyncio
import errno
import secrets
import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address

ECHO, ECHO_REPLY = 8, 0
_HEADER = struct.Struct("!BBHHH")
"""type, code, checksum, identifier, sequence number"""
MAX_PACKET = 2048
SO_RCVBUFFORCE = 33
ROOM = 2 << 20
"""Bytes for answers that wait in the socket: the kernel counts 768 for each, and a thousand hosts
may be asked twice at once."""
SOL_RAW, ICMP_FILTER = 255, 1
"""linux/icmp.h: a mask of the types that a raw socket does not want."""
OWN_FAULT = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})


async def answers(
    addresses: Iterable[IPv4Address], identifier: int, seconds: float, attempts: int
) -> bool:
    """Whether any of the host's addresses answers `attempts` questions within `seconds`.
    `identifier`: 16 bits, unique to this question."""
    asked = tuple(addresses)
    with socket.socket(
        socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP
    ) as echo:
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


def _ask(
    echo: socket.socket, addresses: Iterable[IPv4Address], identifier: int, number: int
) -> None:
    packet = _HEADER.pack(
        ECHO, 0, checksum(_HEADER.pack(ECHO, 0, 0, identifier, number)), identifier, number
    )
    for address in addresses:
        try:
            echo.sendto(packet, (str(address), 0))
        except OSError:  # no route, or a neighbour known not to answer: counts as no answer
            continue


async def _answer(echo: socket.socket, asked: frozenset[IPv4Address], identifier: int) -> None:
    loop = asyncio.get_running_loop()
    while not is_answer(await loop.sock_recv(echo, MAX_PACKET), asked, identifier):
        pass


def is_answer(packet: bytes, asked: frozenset[IPv4Address], identifier: int) -> bool:
    """`packet`: with its IP header, as a raw socket gives it."""
    return _source(packet, identifier) in asked


def _source(packet: bytes, identifier: int) -> IPv4Address | None:
    """The sender of an echo reply; None for any other packet."""
    start = (packet[0] & 0x0F) * 4 if packet else 0
    if len(packet) < max(start, 20) + _HEADER.size:
        return None
    kind, _, _, its, _ = _HEADER.unpack_from(packet, start)
    return IPv4Address(packet[12:16]) if kind == ECHO_REPLY and its == identifier else None


def checksum(data: bytes) -> int:
    """RFC 1071; `data` has an even length."""
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class EchoSocket:
    """Implements `session.base.Echo`."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_ICMP
        )
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        self._socket.setsockopt(
            SOL_RAW, ICMP_FILTER, struct.pack("=I", ~(1 << ECHO_REPLY) & 0xFFFFFFFF)
        )
        self._identifier = own = secrets.randbits(16)
        self._packet = _HEADER.pack(ECHO, 0, checksum(_HEADER.pack(ECHO, 0, 0, own, 0)), own, 0)

    def ask(self, address: IPv4Address) -> bool:
        try:
            self._socket.sendto(self._packet, (str(address), 0))
        except OSError as error:
            return error.errno not in OWN_FAULT
        return True

    def answered(self) -> set[IPv4Address]:
        found: set[IPv4Address] = set()
        while True:
            try:
                packet = self._socket.recv(MAX_PACKET)
            except OSError:  # no more
                return found
            if (source := _source(packet, self._identifier)) is not None:
                found.add(source)

    def close(self) -> None:
        self._socket.close()
