"""Long lists: the event loop is given back between two pieces."""

import asyncio

import msgspec
import pytest

from weft.api import filters, listing
from weft.errors import InvalidArgument


def test_others_go_on_while_a_long_list_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "HOLD", 0.0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def check() -> None:
        beside = asyncio.create_task(others())
        answer = await listing.answer_list(
            range(1000), lambda number: number % 2 == 0, lambda number: {"N": number}
        )
        beside.cancel()
        assert turns >= 1000 // listing.STRIDE
        assert isinstance(answer.body, bytes)
        assert [row["N"] for row in msgspec.json.decode(answer.body)] == list(range(0, 1000, 2))

    asyncio.run(check())


def test_an_empty_list_is_one() -> None:
    answer = asyncio.run(listing.answer_list((), lambda _: True, lambda _: {}))
    assert answer.body == b"[]\n"


def test_values_of_one_key_are_alternatives_but_labels_must_all_hold() -> None:
    makers: filters.Makers[str] = {
        "id": lambda value: lambda item: item.startswith(value),
        "label": lambda value: lambda item: value in item,
    }
    items = ["ab", "bc", "cd"]
    assert filters.select(items, {"id": ["a", "c"]}, makers) == ["ab", "cd"]
    assert filters.select(items, {"label": ["b", "c"]}, makers) == ["bc"]
    assert filters.select(items, {"id": ["a", "b"], "label": ["c"]}, makers) == ["bc"]
    assert filters.select(items, {}, makers) == items


def test_a_value_that_means_nothing_is_refused_also_where_there_is_nothing_to_test() -> None:
    def of_colour(value: str) -> filters.Test[str]:
        wanted = filters.among(value, ("red",), "colour")
        return lambda item: item == wanted

    with pytest.raises(InvalidArgument, match="Invalid colour filter: 'blue'"):
        filters.select([], {"colour": ["blue"]}, {"colour": of_colour})
