"""The functions of templates, as in Go's text/template with Docker Swarm's `join`, and the printed
form of values.

Values are strings, numbers, booleans, None, maps (`dict`) and structures (other mappings; their
fields are fixed).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from weft.errors import clip


class TemplateFailure(Exception):
    """The text is no valid template, or cannot be expanded."""


_VERB = re.compile(r"%([-+# 0]*)(\d{0,3})(\.\d{0,3})?([a-zA-Z%])")
_VERBS = {
    "s": str,
    "d": int,
    "f": float,
    "g": float,
    "e": float,
    "x": int,
    "X": int,
    "t": bool,
    "q": str,
    "v": object,
}


def shown(value: Any) -> str:
    """The value as Go prints it with %v."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{shown(item)}' for key, item in sorted(value.items()))}]"
    if isinstance(value, Mapping):
        return f"{{{' '.join(map(shown, value.values()))}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_true(value: Any) -> bool:
    """Whether a condition holds; structures are true."""
    return True if isinstance(value, Mapping) and not isinstance(value, dict) else bool(value)


def _print(*values: Any) -> str:
    """Separates two values with a space if neither is a string."""
    written = ""
    for number, value in enumerate(values):
        spaced = number and not isinstance(value, str) and not isinstance(values[number - 1], str)
        written += (" " if spaced else "") + shown(value)
    return written


def _println(*values: Any) -> str:
    return " ".join(map(shown, values)) + "\n"


def _printf(pattern: Any = None, *values: Any) -> str:
    if not isinstance(pattern, str):
        raise TemplateFailure("wrong number of args for printf: it needs a pattern")
    left = list(values)

    def written(found: re.Match[str]) -> str:
        flags, width, precision, verb = found[1], found[2], found[3] or "", found[4]
        if verb == "%":
            return "%"
        if not left:
            return f"%!{verb}(MISSING)"
        value = left.pop(0)
        if (
            verb not in _VERBS
            or not isinstance(value, _VERBS[verb])
            or (verb in "dxX" and isinstance(value, bool))
        ):
            return f"%!{verb}({shown(value)})"
        if verb in "svtq":
            quoted = (
                '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
                if verb == "q"
                else shown(value)
            )
            return f"%{flags.replace('#', '')}{width}{precision}s" % quoted
        return f"%{flags}{width}{precision}{verb}" % value

    text = _VERB.sub(written, pattern)
    return text + (f"%!(EXTRA {', '.join(map(shown, left))})" if left else "")


def _len(value: Any = None) -> int:
    if not isinstance(value, str | dict):
        raise TemplateFailure(f"len of {clip(shown(value))}: it has none")
    return len(value.encode()) if isinstance(value, str) else len(value)


def _index(value: Any = None, *keys: Any) -> Any:
    """For a map: an empty string if the key is missing."""
    for key in keys:
        if isinstance(value, dict) and isinstance(key, str):
            value = value.get(key, "")
        elif isinstance(value, str) and isinstance(key, int) and 0 <= key < len(value.encode()):
            value = value.encode()[key]
        else:
            raise TemplateFailure(f"cannot index {clip(shown(value))} with {clip(shown(key))}")
    return value


def _slice(value: Any = None, *ends: Any) -> str:
    if (
        not isinstance(value, str)
        or len(ends) > 2
        or not all(type(end) is int and 0 <= end <= len(value) for end in ends)
    ):
        raise TemplateFailure(f"cannot slice {clip(shown(value))}")
    start, end = (*ends, *(0, len(value))[len(ends) :]) if ends else (0, len(value))
    if start > end:
        raise TemplateFailure(f"cannot slice {clip(shown(value))}: {start} is beyond {end}")
    return value[start:end]


def _join(*texts: Any) -> str:
    if not texts or not all(isinstance(text, str) for text in texts):
        raise TemplateFailure("join needs a separator and texts")
    return str(texts[0]).join(texts[1:])


def _comparable(left: Any, right: Any) -> None:
    if type(left) is not type(right) or isinstance(left, Mapping):
        raise TemplateFailure(
            f"incompatible types for comparison: {clip(shown(left))} and {clip(shown(right))}"
        )


def _eq(first: Any = None, *others: Any) -> bool:
    """Whether the first equals any of the others."""
    if not others:
        raise TemplateFailure("missing argument for comparison")
    for other in others:
        _comparable(first, other)
    return first in others


def _ordered(name: str, holds: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    def compare(*values: Any) -> bool:
        if len(values) != 2:
            raise TemplateFailure(f"wrong number of args for {name}: want 2 got {len(values)}")
        _comparable(*values)
        if name != "ne" and isinstance(values[0], bool | None):
            raise TemplateFailure("invalid type for comparison")
        return holds(*values)

    return compare


def _not(*values: Any) -> bool:
    if len(values) != 1:
        raise TemplateFailure(f"wrong number of args for not: want 1 got {len(values)}")
    return not is_true(values[0])


def _of_expansion(*values: Any) -> Any:
    raise TemplateFailure("it has no arguments")


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "and": _of_expansion,
    "or": _of_expansion,
    "not": _not,
    "eq": _eq,
    "ne": _ordered("ne", lambda a, b: bool(a != b)),
    "lt": _ordered("lt", lambda a, b: bool(a < b)),
    "le": _ordered("le", lambda a, b: bool(a <= b)),
    "gt": _ordered("gt", lambda a, b: bool(a > b)),
    "ge": _ordered("ge", lambda a, b: bool(a >= b)),
    "len": _len,
    "index": _index,
    "slice": _slice,
    "print": _print,
    "println": _println,
    "printf": _printf,
    "join": _join,
}
"""Functions by name. The expansion implements `and` and `or` itself, since they do not evaluate all
of their arguments."""

PAYLOAD_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    **FUNCTIONS,
    "secret": _of_expansion,
    "config": _of_expansion,
    "env": _of_expansion,
}
"""Functions of the templates in secrets and configs. The last three read what one task has:
`model/payload.py` puts the real ones in their place."""
