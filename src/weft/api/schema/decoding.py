"""Strict decoding of requests: Weft either understands a field of the Docker API or refuses the
request and names the field (invariant 9 of the design).

`decode`

1. parses the JSON;
2. walks the JSON once, in parallel with the wire struct that it becomes. The walk drops every
   `null`, which Go's encoder writes for an absent list or map. It accepts field names in any case,
   as Go's decoder does and docker-py relies on. It notes the first field that the API has and the
   struct lacks, unless the value is zero or empty: such a value has no effect, and clients built on
   Go's structs send many of them. A field that the API does not have is dropped, as Go's decoder
   drops it;
3. converts the JSON, so that the error for a wrong type or a number out of range names the path and
   the value.

The walk visits only the fields of a struct, and each item once; more than `MAX_VALUES` items are
refused. So the time is bounded, and `decode` may run in a thread beside the event loop.
"""

import re
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin

import msgspec

from weft.api.schema.common import Wire
from weft.errors import InvalidArgument, Unsupported, clip

T = TypeVar("T")
MAX_VALUES = 100_000
"""Items in all lists and maps of one request. A service that publishes 10,000 ports has 50,000."""
_PATH = re.compile(r" - at `(\$[^`]*)`")
_UNKNOWN = re.compile(r"Invalid enum value ['\"]?(.*?)['\"]? - at `\$\.([^`]*)`", re.DOTALL)
_STEP = re.compile(r"\.([A-Za-z0-9_]+)|\[(\d+)\]")


NOTHING: frozenset[str] = frozenset()
LINKS = (
    "containers on a network that a user made find each other by name, and by further names with"
    " --network-alias (in Compose: aliases of the service's network)"
)
_HINTS = {"Links": LINKS}
"""What to use instead of a field that Weft lacks, by the field's name."""


def decode(body: bytes, type_: type[T], empty: bool = False, later: frozenset[str] = NOTHING) -> T:
    """Decodes a request's body into a `type_`. `empty`: an empty body is allowed and means that
    every field is absent. `later`: paths of fields that the request's API version does not have
    yet; they are dropped. `[]` in a path stands for any item of a list, `{}` for any value of a
    map. Raises `InvalidArgument` for a body
    that is not JSON or has a wrong type, `Unsupported` for a field of the API that Weft lacks."""
    if not body.strip():
        if not empty:
            raise InvalidArgument("invalid JSON: got EOF while reading request body")
        body = b"{}"
    try:
        raw = _JSON.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"invalid JSON: {error}") from error
    walk = _Walk(later)
    read = walk.value(raw, _shape(cast(Hashable, type_)), "", "")
    try:
        value = msgspec.convert(read, type_)
    except msgspec.ValidationError as error:
        hides = isinstance(type_, type) and issubclass(type_, Wire) and type_.confidential
        text = _unknown_value(str(error)) or f"invalid JSON: {error}"
        value_there = "" if hides else _value_at(read, text)
        raise InvalidArgument(f"{text}{value_there}") from (None if hides else error)
    if walk.lacking:
        hint = _HINTS.get(walk.lacking.rpartition(".")[2], "")
        raise Unsupported(f"{clip(walk.lacking)} is not supported by Weft" + (hint and f"; {hint}"))
    return value


_JSON = msgspec.json.Decoder(float_hook=float)
"""`float` reads 1e400 as infinity, which no field accepts: so the error names the path."""


class _Shape(msgspec.Struct, frozen=True):
    """The part of a type that the walk needs to know."""

    fields: Mapping[str, tuple[str, "_Shape | None"]] | None = None
    """For a struct, by name in lower case: the name as it is spelt, and the field's shape."""
    lacks: Mapping[str, str] = msgspec.field(default_factory=dict)
    """For a struct, by name in lower case: the fields to refuse, as they are spelt."""
    items: "_Shape | None" = None
    """The shape of a list's or map's items. None if items need no walk: texts, numbers,
    anything."""


@cache
def _shape(type_: Any) -> _Shape | None:
    """None if the type contains no struct, list or map."""
    for candidate in (type_, *get_args(type_)):
        origin = get_origin(candidate)
        if origin is dict:
            return _Shape(items=_shape(get_args(candidate)[1]))
        if origin in (list, tuple):
            return _Shape(items=_shape(get_args(candidate)[0]))
        if isinstance(candidate, type) and issubclass(candidate, msgspec.Struct):
            fields = msgspec.structs.fields(candidate)
            known = {
                field.encode_name.lower(): (field.encode_name, _shape(field.type))
                for field in fields
            }
            lacks = candidate.lacks if issubclass(candidate, Wire) else ()
            return _Shape(known, {name.lower(): name for name in lacks})
    return None


class _Walk:
    def __init__(self, later: frozenset[str]) -> None:
        self._later = later
        self.lacking = ""
        """Path of the first field that Weft lacks and that has a value."""
        self._seen = 0

    def value(self, raw: Any, shape: _Shape | None, path: str, kind: str) -> Any:
        """`kind`: the path as `later` has it."""
        if shape is None or not isinstance(raw, list | dict):
            return raw
        self._seen += len(raw)
        if self._seen > MAX_VALUES:
            raise InvalidArgument(f"invalid JSON: it has more than {MAX_VALUES} values")
        if isinstance(raw, list):
            return self._list(raw, shape, path, f"{kind}[]")
        return (
            self._map(raw, shape, path, f"{kind}{{}}")
            if shape.fields is None
            else self._struct(raw, shape, path, kind)
        )

    def _list(self, raw: list[Any], shape: _Shape, path: str, kind: str) -> list[Any]:
        if shape.items is None:
            return raw
        return [
            self.value(item, shape.items, f"{path}[{index}]", kind)
            for index, item in enumerate(raw)
        ]

    def _map(self, raw: dict[str, Any], shape: _Shape, path: str, kind: str) -> dict[str, Any]:
        if shape.items is None:
            return {key: item for key, item in raw.items() if item is not None}
        return {
            key: self.value(item, shape.items, f"{path}.{key}", kind)
            for key, item in raw.items()
            if item is not None
        }

    def _struct(self, raw: dict[str, Any], shape: _Shape, path: str, kind: str) -> dict[str, Any]:
        read, fields, lacks = {}, shape.fields or {}, shape.lacks
        place, general = (f"{path}.", f"{kind}.") if path else ("", "")
        for key, item in raw.items():
            name, inner = fields.get(key.lower(), (lacks.get(key.lower(), ""), None))
            if not name or item is None or general + name in self._later:
                continue
            if key.lower() in fields:
                read[name] = self.value(item, inner, place + name, general + name)
            elif not self.lacking and not is_zero(item):
                self.lacking = place + name
        return read


def is_zero(value: Any) -> bool:
    """Whether the value has no effect: false, 0, empty, or made only of such values."""
    open_: list[Iterable[Any]] = [(value,)]
    while open_:
        for item in open_.pop():
            if isinstance(item, dict):
                open_.append(item.values())
            elif item:
                return False
    return True


def _unknown_value(message: str) -> str:
    """`invalid value "x" for Field.Sub` for a value that is none of those that the field may have;
    empty for another error."""
    match = _UNKNOWN.fullmatch(message)
    return f'invalid value "{clip(match[1])}" for {match[2]}' if match is not None else ""


def _value_at(raw: Any, message: str) -> str:
    """`: <value>` at the path that a msgspec message names; empty if the message names no path, or
    a path inside a map."""
    path = _PATH.search(message)
    if path is None or "..." in path[1]:
        return ""
    for name, index in _STEP.findall(path[1]):
        if name:
            raw = raw.get(name) if isinstance(raw, dict) else None
        else:
            raw = raw[int(index)] if isinstance(raw, list) and int(index) < len(raw) else None
    return "" if raw is None or isinstance(raw, list | dict) else f": {clip(repr(raw))}"
