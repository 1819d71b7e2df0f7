"""Finding the one object that a name in a URL means: by its whole id, then by its exact name, then by a unique prefix of its id."""

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from weft.errors import InvalidArgument, NotFound


class Named(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)
Id = TypeVar("Id", bound=str)


def find(kind: str, reference: str, objects: Mapping[Id, T], names: Mapping[str, Iterable[T]] | None = None) -> T:
    """`names` gives the objects of a name where that is not `object.name` (a node's hostname).
    Raises `NotFound`: `<kind> <reference> not found`; `InvalidArgument` if several are meant."""
    if whole := [obj for id, obj in objects.items() if id == reference]:
        return whole[0]
    named = list(names.get(reference, ())) if names is not None else [o for o in objects.values() if o.name == reference]
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
