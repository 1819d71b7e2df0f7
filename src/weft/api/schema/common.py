"""What all codecs share: strict decoding of requests, and how Go writes moments and durations.

`decode` holds invariant 9 of the design: what a request says is either understood or refused by name. It

1. parses the JSON, drops every `null`, which Go's encoder writes for an absent list or map, and takes field names in any case,
   as Go's decoder does and docker-py counts on;
2. converts it to a wire struct, so that a wrong type is an error that names its path;
3. walks both together, and refuses every field that the struct does not have, unless its value is zero or empty: that says
   nothing, and clients built on Go's structs send many of those.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from weft.errors import InvalidArgument, Unsupported
from weft.model.meta import SECOND, Nanoseconds

Json = dict[str, Any]
T = TypeVar("T")

ZERO_TIME = "0001-01-01T00:00:00Z"
"""How Go prints a time that was never set."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of the structs that requests are decoded into: fields are named as in the JSON, in Pascal case."""


def decode(body: bytes, type_: type[T], empty: bool = False) -> T:
    """A `type_` from a request's body. `empty`: no body at all means one with every field absent.
    Raises `InvalidArgument` for what is not JSON or of the wrong type, `Unsupported` for a field that would be ignored."""
    if not body.strip():
        if not empty:
            raise InvalidArgument("invalid JSON: got EOF while reading request body")
        body = b"{}"
    try:
        raw = _as_go_reads(msgspec.json.decode(body), type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    try:
        value = msgspec.convert(raw, type_)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    for path in unknown_fields(raw, type_):
        raise Unsupported(f"{path} is not supported by Weft")
    return value


def unknown_fields(raw: Any, type_: Any, path: str = "") -> Iterator[str]:
    """Paths of the fields in `raw` that `type_` has no place for and that say something."""
    if isinstance(raw, list):
        for index, item in enumerate(raw):
            yield from unknown_fields(item, _item_type(type_), f"{path}[{index}]")
    elif isinstance(raw, dict):
        struct = _struct_type(type_)
        if struct is None:
            for key, item in raw.items():
                yield from unknown_fields(item, _item_type(type_), f"{path}.{key}")
            return
        known = {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
        for key, item in raw.items():
            below = f"{path}.{key}" if path else key
            if key in known:
                yield from unknown_fields(item, known[key], below)
            elif not is_zero(item):
                yield below


def is_zero(value: Any) -> bool:
    """Says nothing: false, 0, empty, or made of such values only."""
    if isinstance(value, dict):
        return all(is_zero(item) for item in value.values())
    return not value


def _struct_type(type_: Any) -> type[msgspec.Struct] | None:
    """The struct in `X`, `X | None`."""
    for candidate in (type_, *get_args(type_)):
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            return candidate if get_origin(type_) not in (list, tuple, dict) else None
    return None


def _item_type(type_: Any) -> Any:
    """`X` of `tuple[X, ...]`, `list[X]`, `dict[str, X]`, also inside `… | None`; None for anything else."""
    for candidate in (type_, *get_args(type_)):
        if get_origin(candidate) is dict:
            return get_args(candidate)[1]
        if get_origin(candidate) in (list, tuple):
            return get_args(candidate)[0]
    return None


def _as_go_reads(value: Any, type_: Any) -> Any:
    """Without nulls; fields of structs spelt as the struct spells them."""
    if isinstance(value, list):
        item_type = _item_type(type_)
        return [_as_go_reads(item, item_type) for item in value]
    if not isinstance(value, dict):
        return value
    struct = _struct_type(type_)
    if struct is None:
        item_type = _item_type(type_)
        return {key: _as_go_reads(item, item_type) for key, item in value.items() if item is not None}
    fields = {field.encode_name.lower(): field for field in msgspec.structs.fields(struct)}
    read = {}
    for key, item in value.items():
        field = fields.get(key.lower())
        if item is not None:
            read[field.encode_name if field else key] = _as_go_reads(item, field.type if field else None)
    return read


def encode(value: Any) -> bytes:
    return encode_item(value) + b"\n"


def encode_item(value: Any) -> bytes:
    """One value inside a longer answer."""
    return msgspec.json.encode(value)


def omit_empty(fields: Json) -> Json:
    """Go's `omitempty`: without the fields that are false, 0 or empty."""
    return {key: value for key, value in fields.items() if value}


def rfc3339(moment: Nanoseconds) -> str:
    """RFC 3339 with up to nine decimals, trailing zeros dropped; the zero time for 0."""
    if not moment:
        return ZERO_TIME
    seconds, nanoseconds = divmod(moment, SECOND)
    text = datetime.fromtimestamp(seconds, UTC).isoformat()[: len("2006-01-02T15:04:05")]  # strftime takes six times as long
    decimals = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    return f"{text}{decimals}Z"


def rfc3339_fixed(moment: Nanoseconds) -> str:
    """With nine decimals always, as log lines are stamped."""
    seconds, nanoseconds = divmod(moment, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def parse_moment(text: str, field: str) -> Nanoseconds:
    """`1700000000`, `1700000000.000000123` or RFC 3339; 0 for an empty text or 0. Raises `InvalidArgument`."""
    if not text:
        return 0
    seconds, _, decimals = text.partition(".")
    try:
        if seconds.lstrip("-").isdigit() and (decimals.isdigit() or not decimals):
            return max(int(seconds) * SECOND + int(decimals.ljust(9, "0")[:9] or 0), 0)
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * SECOND
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f'invalid {field}: "{text}" is not a timestamp') from error


def parse_address(text: str, type_: type[T], field: str) -> T:
    """An address or subnet. Raises `InvalidArgument` that names the field and the text."""
    try:
        return type_(text)  # type: ignore[call-arg]
    except ValueError as error:
        raise InvalidArgument(f"invalid {field}: {text!r}: {error}") from error


def human_duration(duration: Nanoseconds) -> str:
    """As `docker ps` says it: go-units `HumanDuration`."""
    seconds = duration / SECOND
    minutes, hours = int(seconds / 60), int(seconds / 3600 + 0.5)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if int(seconds) == 1 else f"{int(seconds)} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    for unit, size, below in (("hours", 1, 48), ("days", 24, 24 * 14), ("weeks", 24 * 7, 24 * 60), ("months", 720, 24 * 730)):
        if hours < below:
            return "About an hour" if hours == 1 else f"{hours // size} {unit}"
    return f"{hours // 8760} years"


def now() -> Nanoseconds:
    return time.time_ns()
