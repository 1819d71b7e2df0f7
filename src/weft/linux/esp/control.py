"""Messages between the daemon and the engine, over a UNIX socket that only root can reach: a length
of four octets, then MessagePack.

The daemon asks, and the engine answers each request once. Keys pass here and nowhere else: neither
side logs or stores a message.
"""

import asyncio
import socket
import struct
from typing import Any, Literal

import msgspec

from weft.errors import OperationFailed, cause_of
from weft.model.codec import decode, encode
from weft.model.encryption import Protection

PROTOCOL_VERSION = 1
"""The daemon replaces an engine of another version."""
Implementation = Literal["auto", "helper", "python"]
_LENGTH = struct.Struct("!I")
_MAX = 64 << 20
_CREDENTIALS = struct.Struct("=iII")


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    protection: Protection


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """Asks for the engine's status."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Removes the device and ends the engine."""


class Status(msgspec.Struct, frozen=True, tag="status"):
    version: int
    implementation: Implementation
    counters: dict[str, int] = {}
    """Counted since this engine began."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    message: str


Request = Apply | Ask | Stop
Reply = Status | Refused


async def send(writer: asyncio.StreamWriter, message: Request | Reply) -> None:
    body = encode(message)
    writer.write(_LENGTH.pack(len(body)) + body)
    await writer.drain()


async def receive(reader: asyncio.StreamReader, type_: Any) -> Any:
    """Raises `OperationFailed` if the other side is gone or sends an invalid message."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > _MAX:
            raise OperationFailed(
                f"cannot read a message of the ESP engine: its length is {length}"
            )
        return decode(await reader.readexactly(length), type_)
    except (OSError, EOFError, msgspec.DecodeError) as error:
        raise OperationFailed(
            f"cannot read a message of the ESP engine: {cause_of(error)}"
        ) from error


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process id and user id of the other end."""
    pid, uid, _ = _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return int(pid), int(uid)
