"""Finds what a user names: by its whole id, then by its exact name, then by the beginning of its id;
each kind of object with Docker's texts for what is not there, or not the only one."""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Generic, NamedTuple, Protocol, TypeVar, cast

from weft.errors import InvalidArgument, NotFound


class Named(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


T = TypeVar("T")
N = TypeVar("N", bound=Named)
Id = TypeVar("Id", bound=str)
Texts = Callable[[T], Iterable[str]]
WHOLE_ID, NAME, PREFIX = "id", "name", "ID prefix"
"""By what something was found, as Docker says it."""


class Found(NamedTuple, Generic[T]):
    by: str
    objects: list[T]
    """All that the reference names in this way."""


class _Wording(NamedTuple):
    missing: str = "{kind} {reference} not found"
    several: str = "{kind} {reference} is ambiguous ({count} matches found)"


_OF_THE_SWARM = _Wording()
_WORDINGS: Mapping[str, _Wording] = MappingProxyType(
    {
        "container": _Wording(
            "No such container: {reference}",
            "multiple IDs found with provided prefix: {reference}",
        ),
        "network": _Wording(
            several="{count} matches found based on {by}: network {reference} is ambiguous"
        ),
    }
)


def matches(reference: str, candidates: Iterable[T], ids: Texts[T], names: Texts[T]) -> Found[T]:
    """What the reference names in the first way in which it names anything."""
    objects = list(candidates)

    def begins(each: T) -> bool:
        return any(id.startswith(reference) for id in ids(each))

    for by, found in (
        (WHOLE_ID, (each for each in objects if reference in ids(each))),
        (NAME, (each for each in objects if reference in names(each))),
        (PREFIX, (each for each in objects if reference and begins(each))),
    ):
        if some := list(found):
            return Found(by, some)
    return Found(PREFIX, [])


def find(
    kind: str,
    reference: str,
    objects: Mapping[Id, N],
    name: Callable[[N], str] = attrgetter("name"),
) -> N:
    """`objects`: by id. `name` returns the name of an object (a node's is its hostname). Raises
    `NotFound`, or `InvalidArgument` if several objects match."""
    if (whole := objects.get(cast(Id, reference))) is not None:
        return whole
    found = matches(
        reference, objects.values(), lambda each: (each.id,), lambda each: (name(each),)
    )
    return only(kind, reference, found)


def only(kind: str, reference: str, found: Found[T]) -> T:
    """Raises as `find`."""
    wording, count = _WORDINGS.get(kind, _OF_THE_SWARM), len(found.objects)
    if not found.objects:
        raise NotFound(wording.missing.format(kind=kind, reference=reference))
    if count > 1:
        told = wording.several.format(kind=kind, reference=reference, count=count, by=found.by)
        raise InvalidArgument(told)
    return found.objects[0]
