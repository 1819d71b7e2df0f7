"""Where the log driver `syslog` sends lines, and how they look on the way. Pure.

Sources: RFC 3164, RFC 5424, and Docker's formats: without `syslog-format` a message has no host, as
on the socket of a host's own syslog.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from weft.errors import InvalidArgument, Unsupported, clip
from weft.model.container import LogLine
from weft.model.meta import SECOND
from weft.model.numbers import decimal

_PORT = 514
_ERROR, _INFO = 3, 6
"""Severities of lines on stderr and stdout (RFC 5424, 6.2.1)."""
_FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
)  # fmt: skip
_LOCAL = 16
"""Number of the facility local0."""
_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")

Transport = Literal["local", "udp", "tcp", "unix", "unixgram"]


class SyslogTarget(msgspec.Struct, frozen=True, kw_only=True):
    transport: Transport
    """`local`: this host's own syslog, on /dev/log."""
    host: str = ""
    port: int = 0
    path: str = ""
    facility: int
    format: str


def syslog_target(options: Mapping[str, str]) -> SyslogTarget:
    """Raises `InvalidArgument` with Docker's texts, or `Unsupported`."""
    if options.get("syslog-format", "") not in _FORMATS:
        raise InvalidArgument("Invalid syslog format")
    facility = _facility(options.get("syslog-facility", "daemon") or "daemon")
    address, format = options.get("syslog-address", ""), options.get("syslog-format", "")
    if not address:
        return SyslogTarget(transport="local", facility=facility, format=format)
    try:
        url = urlsplit(address)
        port = url.port
    except ValueError as error:
        raise InvalidArgument(
            f"invalid value for syslog-address: {clip(address)}: {error}"
        ) from None
    match url.scheme:
        case "unix" | "unixgram" as scheme if url.path:
            return SyslogTarget(transport=scheme, path=url.path, facility=facility, format=format)
        case "udp" | "tcp" as scheme if url.hostname:
            return SyslogTarget(
                transport=scheme, host=url.hostname, port=port or _PORT, facility=facility,
                format=format,
            )  # fmt: skip
        case "tcp+tls":
            raise Unsupported("syslog over TLS (syslog-address tcp+tls) is not supported by Weft")
        case "unix" | "unixgram" | "udp" | "tcp":
            raise InvalidArgument(
                f"invalid value for syslog-address: {clip(address)}: it has no host or path"
            )
        case scheme:
            raise InvalidArgument(f"unsupported scheme: '{clip(scheme)}'")


def _facility(text: str) -> int:
    if text in _FACILITIES:
        return _FACILITIES.index(text)
    number = decimal(text.removeprefix("local"), 23)
    is_local = text.startswith("local")
    if number is None or (is_local and number > 7):
        raise InvalidArgument("invalid syslog facility")
    return number + _LOCAL if is_local else number


def syslog_message(target: SyslogTarget, line: LogLine, tag: str, host: str, process: int) -> bytes:
    """The line as one message, which ends with a newline. `process`: PID of the daemon."""
    priority = target.facility << 3 | (_ERROR if line.stream == 2 else _INFO)
    moment = datetime.fromtimestamp(line.timestamp // SECOND, UTC).astimezone()
    short = f"{moment:%b} {moment.day:2d} {moment:%H:%M:%S}"
    name = "".join(c if c.isprintable() else "_" for c in tag)
    match target.format:
        case "":
            head = f"<{priority}>{short} {name}[{process}]: "
        case "rfc3164":
            head = f"<{priority}>{short} {host} {name}[{process}]: "
        case _:
            micro = f".{line.timestamp % SECOND // 1000:06d}" if "micro" in target.format else ""
            stamp = f"{moment:%Y-%m-%dT%H:%M:%S}{micro}{moment.isoformat()[-6:]}"
            head = f"<{priority}>1 {stamp} {host} {name} {process} {name} - "
    return head.encode() + line.data.rstrip(b"\n") + b"\n"
