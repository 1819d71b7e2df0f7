"""The `filters` query argument: `{"name": {"web": true}}`, or the older `{"name": ["web"]}`.

One of a key's values must match, and every key must match. A key that the list does not support is
refused, as in Docker.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from weft.errors import InvalidArgument
from weft.model.patterns import glob, regular_expression

T = TypeVar("T")
MAX_VALUES = 256
"""Values of one key: every item may be compared with all of them."""
Filters = Mapping[str, Sequence[str]]
Test = Callable[[T], bool]
Makers = Mapping[str, Callable[[str], Test[T]]]
"""For each key of a filter: makes a test of one item from one value. A value is interpreted once,
not for each item."""


def parse(text: str, allowed: Collection[str]) -> Filters:
    """Raises `InvalidArgument` for an invalid filter and for keys that are not in `allowed`."""
    if not text:
        return {}
    try:
        raw = msgspec.json.decode(text)
        filters = {key: _values(values) for key, values in (raw or {}).items()}
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
        AttributeError,
        TypeError,
    ) as error:
        raise InvalidArgument("invalid filter") from error
    for key, values in filters.items():
        if key not in allowed:
            raise InvalidArgument(f"invalid filter '{key}'")
        if len(values) > MAX_VALUES:
            raise InvalidArgument(
                f"invalid filter '{key}': {len(values)} values are more than {MAX_VALUES}"
            )
    return {key: values for key, values in filters.items() if values}


def _values(values: object) -> list[str]:
    if isinstance(values, dict):
        return [value for value, wanted in values.items() if wanted]
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    raise TypeError("neither a map nor a list of strings")


def compile_test(filters: Filters, makers: Makers[T]) -> Test[T]:
    """One test of an item: for every key one value must match; for `label` all values must match.
    Raises the makers' errors for an invalid value, even if there is no item to test."""
    tests = [
        _together(key, [makers[key](value) for value in values]) for key, values in filters.items()
    ]
    return lambda item: all(test(item) for test in tests)


def select(items: Iterable[T], filters: Filters, makers: Makers[T]) -> list[T]:
    """The items that pass. For long lists use `listing.answer_list`, which does not block the event
    loop."""
    test = compile_test(filters, makers)
    return [item for item in items if test(item)]


def _together(key: str, tests: Sequence[Test[T]]) -> Test[T]:
    if len(tests) == 1:
        return tests[0]
    together = all if key.endswith("label") else any
    return lambda item: together(test(item) for test in tests)


def among(value: str, allowed: Collection[str], key: str) -> str:
    """The value in lower case. Raises `InvalidArgument` if it is not in `allowed`."""
    if value.lower() not in allowed:
        raise InvalidArgument(f"Invalid {key} filter: '{value}'")
    return value.lower()


def without_empty(filters: Filters, keys: Collection[str]) -> Filters:
    """Drops empty values of these keys, as Docker does in filters of tasks and nodes."""
    said = {
        key: [value for value in values if value or key not in keys]
        for key, values in filters.items()
    }
    return {key: values for key, values in said.items() if values}


def label_matches(labels: Mapping[str, str], wanted: str) -> bool:
    """`wanted` is `key` or `key=value`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def swarm_label_matches(labels: Mapping[str, str], wanted: str) -> bool:
    """For services, tasks and nodes `key=` means any value (swarmkit manager/controlapi/common.go
    `filterMatchLabels`)."""
    key, _, value = wanted.partition("=")
    return key in labels and (not value or labels[key] == value)


def name_test(pattern: str) -> Callable[[str], bool]:
    """Matches names of containers and networks by regular expression; an invalid expression matches
    literally. Raises `InvalidArgument` for an expression that is too long."""
    expression = regular_expression(pattern)
    if expression is None:
        return lambda name: pattern in name
    matches = expression.matches
    return lambda name: name == pattern or matches(name)


def reference_test(pattern: str) -> Callable[[str], bool]:
    """Matches references of images by glob. Raises `InvalidArgument` for a glob that is invalid or
    too long."""
    compiled = glob(pattern)
    if compiled is None:
        raise InvalidArgument(f"invalid filter 'reference={pattern}': syntax error in pattern")
    return compiled.matches


def boolean(value: str, key: str) -> bool:
    """Raises `InvalidArgument` for a text that Go does not parse as a boolean."""
    if value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise InvalidArgument(f"invalid filter '{key}={value}'")
