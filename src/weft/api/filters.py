"""The `filters` query argument: `{"name": {"web": true}}`, or the older `{"name": ["web"]}`.

Values of one key are alternatives; keys must all match. A key that the list does not know is refused, as in the original.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

import msgspec

from weft.errors import InvalidArgument

T = TypeVar("T")
Filters = Mapping[str, Sequence[str]]
Predicate = Callable[[T, str], bool]


def parse(text: str, allowed: Collection[str]) -> Filters:
    """Raises `InvalidArgument` for what is not a filter and for keys not in `allowed`."""
    if not text:
        return {}
    try:
        raw = msgspec.json.decode(text)
        filters = {key: _values(values) for key, values in (raw or {}).items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError, TypeError) as error:
        raise InvalidArgument("invalid filter") from error
    for key in filters:
        if key not in allowed:
            raise InvalidArgument(f"invalid filter '{key}'")
    return {key: values for key, values in filters.items() if values}


def _values(values: object) -> list[str]:
    if isinstance(values, dict):
        return [value for value, wanted in values.items() if wanted]
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    raise TypeError("neither a map nor a list of strings")


def select(items: Collection[T], filters: Filters, predicates: Mapping[str, Predicate[T]]) -> list[T]:
    """The items for which, for every key, one of its values satisfies the key's predicate. `label` values must all hold."""
    return [item for item in items if all(_holds(item, key, values, predicates[key]) for key, values in filters.items())]


def _holds(item: T, key: str, values: Sequence[str], predicate: Predicate[T]) -> bool:
    together = all if key.endswith("label") else any
    return together(predicate(item, value) for value in values)


def label_matches(labels: Mapping[str, str], wanted: str) -> bool:
    """`key` or `key=value`."""
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)


def pattern_matches(text: str, pattern: str) -> bool:
    """Container and network names are matched by regular expression; one that is none matches literally."""
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return pattern in text


def boolean(value: str, key: str) -> bool:
    """Raises `InvalidArgument` for what Go does not take for a boolean."""
    if value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise InvalidArgument(f"invalid filter '{key}={value}'")
