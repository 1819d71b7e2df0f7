"""Where the daemon's log goes, and in which format. Call sites know nothing of either.

An event is `log.info("session.opened node=%s", node)`. Under systemd the event goes to the journal,
with each `key=value` as a field, `WEFT_NODE`, so that `journalctl WEFT_NODE=…` finds it. Otherwise
it goes to standard error as one line of text, or of JSON for machines.
"""

import json
import logging
import os
import re
import socket
import struct
import sys
from pathlib import Path
from typing import Literal

Format = Literal["text", "json"]

JOURNAL = Path("/run/systemd/journal/socket")
TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
DEBUG_PRIORITY = 7
KEY = re.compile(r"(?:^|\s)([a-z][a-z0-9_]*)=%[a-z]")
"""Matches keys in the message template, not in the formatted message, so that a value can never
introduce a key."""
PLACE = re.compile(r"%[a-z%]")


def start(level: str, format: Format) -> None:
    """Sets up logging. To be called once, by the process that logs."""
    handler: logging.Handler
    if format == "text" and writes_to_journal():
        handler = JournalHandler(JOURNAL)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonFormatter() if format == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def writes_to_journal() -> bool:
    """Whether standard error is connected to the journal: JOURNAL_STREAM names the device and inode
    of the stream (systemd.exec(5))."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def event_fields(record: logging.LogRecord) -> dict[str, object]:
    """`{"node": "x"}` for `"session.opened node=%s"`. Empty for a message with conversions other
    than `%` and one letter."""
    places = [place.start() for place in PLACE.finditer(str(record.msg)) if place.group() != "%%"]
    if not isinstance(record.args, tuple) or len(places) != len(record.args):
        return {}
    arguments = dict(zip(places, record.args, strict=True))
    keys = {found.group(1): found.end() - 2 for found in KEY.finditer(str(record.msg))}
    return {key: arguments[place] for key, place in keys.items()}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(), **{f"weft_{key}": str(value) for key, value in event_fields(record).items()},
        }  # fmt: skip
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class JournalHandler(logging.Handler):
    """Sends each record as one datagram of the journal's native protocol
    (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = str(path)
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits for the journal. If the journal is full, gone, or refuses the record as too
        long, one short line goes to standard error instead."""
        try:
            self._socket.sendto(encode(journal_fields(record)), self._path)
        except OSError:
            sys.stderr.write(f"{record.levelname} {record.name} {record.getMessage()}\n")
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()


def journal_fields(record: logging.LogRecord) -> dict[str, str]:
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    return {
        "MESSAGE": message,
        "PRIORITY": str(
            next(
                (number for level, number in PRIORITIES if record.levelno >= level), DEBUG_PRIORITY
            )
        ),
        "SYSLOG_IDENTIFIER": "weft",
        "SYSLOG_PID": str(record.process),
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        **{f"WEFT_{key.upper()}": str(value) for key, value in event_fields(record).items()},
    }


def encode(fields: dict[str, str]) -> bytes:
    """The fields in the journal's format. A value with a line break goes with its length; otherwise
    its further lines would count as fields."""
    parts = []
    for name, value in fields.items():
        data = value.encode(errors="replace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)
