"""Where lines of containers go beside the disk: the host's journal, and syslog."""

import asyncio
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from weft.model.container import Container, LogLine
from weft.model.log_details import chosen, tag
from weft.model.logs import MAX_LINE
from weft.model.meta import SECOND
from weft.model.syslog import SyslogTarget, syslog_message
from weft.system.journal import JOURNAL, encode

DEFAULT_TAG = "{{.ID}}"
LOCAL_SYSLOG = Path("/dev/log")
_PATIENCE = 10.0
"""Seconds that a connection, or a write to it, may take."""
_ERROR, _INFO = "3", "6"
"""The journal's priorities of lines on stderr and stdout."""


class Sink(Protocol):
    async def send(self, line: LogLine) -> None:
        """Takes a whole line, with its newline. Raises `OSError` or `TimeoutError` if the line was
        not taken: it is to be sent again later."""
        ...

    def close(self) -> None: ...


class JournalSink:
    """Sends each line as one datagram of the journal's native protocol, with Docker's fields."""

    def __init__(self, container: Container, host: str, path: Path = JOURNAL) -> None:
        options = container.config.log_options
        name = tag(options.get("tag") or DEFAULT_TAG, container, host)
        self._path = str(path)
        self._fields = {field_name(key): value for key, value in chosen(container).items()} | {
            "CONTAINER_ID": container.id[:12],
            "CONTAINER_ID_FULL": container.id,
            "CONTAINER_NAME": container.config.name,
            "CONTAINER_TAG": name,
            "IMAGE_NAME": container.config.spec.image,
            "SYSLOG_IDENTIFIER": name,
        }
        self._fields.pop("", None)
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_UNIX, kind)

    async def send(self, line: LogLine) -> None:
        fields = self._fields | {
            "MESSAGE": line.data.rstrip(b"\n").decode(errors="replace"),
            "PRIORITY": _ERROR if line.stream == 2 else _INFO,
            "SYSLOG_TIMESTAMP": _rfc3339(line.timestamp),
        }
        if len(line.data) >= MAX_LINE:
            fields["CONTAINER_PARTIAL_MESSAGE"] = "true"
        self._socket.sendto(encode(fields), self._path)

    def close(self) -> None:
        self._socket.close()


def field_name(name: str) -> str:
    """The name of a label or variable as a field of the journal: capitals, digits, underscores,
    no underscore first."""
    capital = (c.upper() if c.isascii() and c.isalnum() else "_" for c in name)
    return "".join(capital).lstrip("_")


def _rfc3339(timestamp: int) -> str:
    seconds, nanoseconds = divmod(timestamp, SECOND)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


class SyslogSink:
    """Connects when the first line comes, and again after an error."""

    def __init__(self, target: SyslogTarget, container: Container, host: str) -> None:
        self._target = target
        self._tag = tag(container.config.log_options.get("tag") or DEFAULT_TAG, container, host)
        self._host = host
        self._socket: socket.socket | None = None

    async def send(self, line: LogLine) -> None:
        if line.data == b"\n":
            return
        message = syslog_message(self._target, line, self._tag, self._host, os.getpid())
        try:
            async with asyncio.timeout(_PATIENCE):
                if self._socket is None:
                    self._socket = await self._connected()
                if self._socket.type == socket.SOCK_STREAM:
                    await asyncio.get_running_loop().sock_sendall(self._socket, message)
                else:
                    self._socket.send(message)
        except BlockingIOError:
            raise
        except ValueError as error:
            # Python refuses some names without asking the system: a part over 63 characters, a NUL.
            raise OSError(f"{self._target.host or self._target.path!r}: {error}") from error
        except (OSError, TimeoutError):
            self.close()
            raise

    async def _connected(self) -> socket.socket:
        target, loop = self._target, asyncio.get_running_loop()
        is_stream = target.transport in ("tcp", "unix")
        kind = socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM
        family: int = socket.AF_UNIX
        address: Any = target.path or str(LOCAL_SYSLOG)
        if target.transport in ("tcp", "udp"):
            found = await loop.getaddrinfo(target.host, target.port, type=kind)
            family, _, _, _, address = found[0]
        made = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            if is_stream:
                await loop.sock_connect(made, address)
            else:
                made.connect(address)
        except BaseException:
            made.close()
            raise
        return made

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
