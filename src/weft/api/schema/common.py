"""The base of all codecs: the struct that requests derive from, the encoding of answers, and Go's
notation for times and durations."""

import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, ClassVar, TypeVar

import msgspec

from weft.errors import InvalidArgument, clip
from weft.model.meta import SECOND, Nanoseconds
from weft.model.numbers import decimal

Json = dict[str, Any]
T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Signed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Numbers in requests have Go's ranges: each type has both bounds, because Python's and msgspec's
integers have none."""
Short = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
FEW = msgspec.Meta(max_length=256)
"""Limits a list whose items the event loop processes one by one. Nobody needs more items."""
LAST_MOMENT: Nanoseconds = 2**63 - 1
"""In the year 2262: the latest time that Go, and all that Weft stores, can express in
nanoseconds."""

_UNITS = {
    "h": 3600 * SECOND, "m": 60 * SECOND, "s": SECOND, "ms": 10**6, "us": 1000, "ns": 1,
}  # fmt: skip
_DURATION_PART = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?)(h|ms|m|s|us|ns)")
"""One part of a duration in Go's notation."""
MAX_MOMENT_TEXT = 64
"""Characters of a time in RFC 3339."""
ZERO_TIME = "0001-01-01T00:00:00Z"
"""Go prints an unset time like this."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of the structs that requests are decoded into. JSON field names are the struct's names
    in Pascal case."""

    lacks: ClassVar[tuple[str, ...]] = ()
    """Fields that the Docker API has here and Weft does not support: a value that is not zero is
    refused. A field that is in neither list is ignored, as Go's decoder ignores it: clients send
    more than the API has (dockerode repeats the query in the body)."""
    confidential: ClassVar[bool] = False
    """Errors about such a request name fields and quote no values."""


def encode(value: Any) -> bytes:
    return encode_item(value) + b"\n"


def encode_item(value: Any) -> bytes:
    """Encodes one value that is part of a longer answer."""
    return msgspec.json.encode(value)


def omit_empty(fields: Json) -> Json:
    """Go's `omitempty`: drops the fields that are false, 0 or empty."""
    return {key: value for key, value in fields.items() if value}


def rfc3339(moment: Nanoseconds) -> str:
    """RFC 3339 with up to nine decimals, trailing zeros dropped; the zero time for 0. A node or an
    image may report a time outside the range: the nearest end of the range is shown."""
    moment = min(max(moment, 0), LAST_MOMENT)
    if not moment:
        return ZERO_TIME
    seconds, nanoseconds = divmod(moment, SECOND)
    decimals = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{_to_the_second(seconds)}{decimals}Z"


def rfc3339_fixed(moment: Nanoseconds) -> str:
    """RFC 3339 always with nine decimals, as in the timestamps of log lines."""
    seconds, nanoseconds = divmod(moment, SECOND)
    return f"{_to_the_second(seconds)}.{nanoseconds:09d}Z"


@lru_cache(64)
def _to_the_second(seconds: int) -> str:
    """Cached because thousands of log lines share one second. `strftime` takes six times as
    long."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[: len("2006-01-02T15:04:05")]


def parse_moment(text: str, field: str) -> Nanoseconds:
    """Parses `1700000000`, `1700000000.000000123` or RFC 3339; an empty text or 0 gives 0. Raises
    `InvalidArgument`."""
    if not text:
        return 0
    try:
        return min(max(_nanoseconds(text), 0), LAST_MOMENT)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f'invalid {field}: "{clip(text)}" is not a timestamp') from error


def parse_until(text: str, now: Nanoseconds) -> Nanoseconds:
    """The moment of a filter `until`: as `parse_moment`, or a duration before `now`, such as `10m`
    or `1h30m`. Raises `InvalidArgument`."""
    ago = _duration(text)
    return parse_moment(text, "until") if ago is None else max(now - ago, 0)


def _duration(text: str) -> Nanoseconds | None:
    """None if the text is no duration."""
    if not text or len(text) > MAX_MOMENT_TEXT:
        return None
    total = position = 0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            return None
        total += int(float(part[1]) * _UNITS[part[2]])
        position = part.end()
    return total


def _nanoseconds(text: str) -> int:
    """Raises `ValueError` or `OverflowError`."""
    whole, _, decimals = text.removeprefix("-").partition(".")
    seconds = decimal(whole)
    if seconds is None:
        if len(text) > MAX_MOMENT_TEXT:
            raise ValueError("longer than a moment is")
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * SECOND
    fraction = decimal(decimals[:9].ljust(9, "0"))
    if fraction is None or decimals[9:].strip("0123456789"):
        raise ValueError("decimals that are none")
    return (-1 if text.startswith("-") else 1) * (seconds * SECOND + fraction)


def parse_address(text: str, type_: type[T], field: str) -> T:
    """Parses an address or subnet. Raises `InvalidArgument` that names the field and the text."""
    try:
        return type_(text)  # type: ignore[call-arg]
    except ValueError as error:
        raise InvalidArgument(f"invalid {field}: {clip(text)!r}: {clip(str(error))}") from error


def human_duration(duration: Nanoseconds) -> str:
    """Rounds as `docker ps` does: go-units `HumanDuration`."""
    seconds = duration / SECOND
    minutes, hours = int(seconds / 60), int(seconds / 3600 + 0.5)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if int(seconds) == 1 else f"{int(seconds)} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    for unit, size, below in (
        ("hours", 1, 48),
        ("days", 24, 24 * 14),
        ("weeks", 24 * 7, 24 * 60),
        ("months", 720, 24 * 730),
    ):
        if hours < below:
            return "About an hour" if hours == 1 else f"{hours // size} {unit}"
    return f"{hours // 8760} years"


def now() -> Nanoseconds:
    return time.time_ns()
