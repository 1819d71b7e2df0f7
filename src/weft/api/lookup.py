"""Finds the one object that a reference in a URL names: by its whole id, then by its exact name,
then by a unique prefix of its id."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Protocol, TypeVar, cast

from weft.errors import InvalidArgument, NotFound


class Named(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)
Id = TypeVar("Id", bound=str)


def find(
    kind: str,
    reference: str,
    objects: Mapping[Id, T],
    name: Callable[[T], str] = attrgetter("name"),
) -> T:
    """`name` returns the name of an object (a node's is its hostname). Raises `NotFound`:
    `<kind> <reference> not found`; `InvalidArgument` if several objects match."""
    if (whole := objects.get(cast(Id, reference))) is not None:
        return whole
    named = [obj for obj in objects.values() if name(obj) == reference]
    if named:
        return _only(kind, reference, named)
    prefixed = [obj for id, obj in objects.items() if reference and id.startswith(reference)]
    if prefixed:
        return _only(kind, reference, prefixed)
    raise NotFound(f"{kind} {reference} not found")


def _only(kind: str, reference: str, found: list[T]) -> T:
    if len(found) > 1:
        raise InvalidArgument(f"{kind} {reference} is ambiguous ({len(found)} matches found)")
    return found[0]
