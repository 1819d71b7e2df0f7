"""Finds the one network that a reference names, the swarm's or a node's own."""

from collections.abc import Iterable
from typing import TypeVar

from weft.model.lookup import Named, matches, only

NOT_FOUND = "network {} not found"
T = TypeVar("T", bound=Named)


def find_network(candidates: Iterable[T], reference: str) -> T:
    """Raises `NotFound`, or `InvalidArgument` if several are meant."""
    found = matches(reference, candidates, lambda each: (each.id,), lambda each: (each.name,))
    return only("network", reference, found)
