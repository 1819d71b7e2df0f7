"""Finds the one network that a reference names, in Docker's order and with its texts."""

from collections.abc import Collection
from typing import Protocol, TypeVar

from weft.errors import InvalidArgument, NotFound

NOT_FOUND = "network {} not found"


class Known(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Known)


def find_network(candidates: Collection[T], reference: str) -> T:
    """By whole id, then by name, then by the beginning of an id. Raises `NotFound`, or
    `InvalidArgument` if several are meant."""
    for by, found in (
        ("id", [n for n in candidates if n.id == reference]),
        ("name", [n for n in candidates if n.name == reference]),
        ("ID prefix", [n for n in candidates if reference and n.id.startswith(reference)]),
    ):
        if len(found) > 1:
            raise InvalidArgument(
                f"{len(found)} matches found based on {by}: network {reference} is ambiguous"
            )
        if found:
            return found[0]
    raise NotFound(NOT_FOUND.format(reference))
