"""The filters of `prune` requests, as moby's `matchLabels` has them."""

import pytest

from weft.api.pruning import prunable
from weft.errors import InvalidArgument
from weft.model.meta import SECOND

MADE = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("wanted", "own", "is_removed"),
    [
        ({}, {}, True),
        ({"label": ["a", "b=2"]}, {"a": "1", "b": "2"}, True),
        ({"label": ["a", "b=2"]}, {"a": "1", "b": "3"}, False),
        ({"label!": ["keep"]}, {"keep": ""}, False),
        ({"label!": ["keep"]}, {}, True),
        ({"label!": ["keep", "old=1"]}, {"keep": "", "old": "1"}, False),
        ({"label!": ["keep", "old=1"]}, {"keep": "", "old": "2"}, True),
        ({"label": ["a"], "label!": ["keep"]}, {"a": "", "keep": ""}, False),
        ({"until": ["1700000001"]}, {}, True),
        ({"until": ["1700000000"]}, {}, False),
    ],
)
def test_which_objects_are_removed(
    wanted: dict[str, list[str]], own: dict[str, str], is_removed: bool
) -> None:
    assert prunable(wanted, MADE + SECOND)(own, MADE) is is_removed


def test_a_second_until_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="^more than one until filter specified$"):
        prunable({"until": ["1h", "2h"]}, MADE)
