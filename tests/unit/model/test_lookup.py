"""How objects are found, and what users read if that fails: the texts are Docker's."""

import msgspec
import pytest

from weft.errors import InvalidArgument, NotFound
from weft.model.lookup import find
from weft.model.network_lookup import find_network


class Thing(msgspec.Struct, frozen=True):
    id: str
    name: str


THINGS = [Thing("abc1", "web"), Thing("abd2", "db"), Thing("web9", "abc"), Thing("x1", "db")]
BY_ID = {thing.id: thing for thing in THINGS}


@pytest.mark.parametrize(
    ("reference", "id"), [("abc1", "abc1"), ("web", "abc1"), ("abc", "web9"), ("abd", "abd2")]
)
def test_whole_ids_come_before_names_and_names_before_beginnings_of_ids(
    reference: str, id: str
) -> None:
    assert find("service", reference, BY_ID).id == id
    assert find_network(THINGS, reference).id == id


@pytest.mark.parametrize(
    ("kind", "reference", "text"),
    [
        ("service", "lost", "service lost not found"),
        ("service", "", "service  not found"),
        ("service", "db", "service db is ambiguous (2 matches found)"),
        ("node", "ab", "node ab is ambiguous (2 matches found)"),
        ("container", "lost", "No such container: lost"),
        ("container", "ab", "multiple IDs found with provided prefix: ab"),
        ("network", "lost", "network lost not found"),
        ("network", "db", "2 matches found based on name: network db is ambiguous"),
        ("network", "ab", "2 matches found based on ID prefix: network ab is ambiguous"),
    ],
)
def test_each_kind_has_its_texts(kind: str, reference: str, text: str) -> None:
    with pytest.raises((NotFound, InvalidArgument)) as error:
        find(kind, reference, BY_ID)
    assert str(error.value) == text
    assert isinstance(error.value, NotFound) == (reference in ("lost", ""))
