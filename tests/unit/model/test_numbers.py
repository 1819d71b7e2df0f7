"""Numbers in text: ASCII digits, of a size that somebody means."""

import pytest

from weft.model.numbers import decimal


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("007", 7), ("65535", 65535), (str(2**63 - 1), 2**63 - 1)]
)
def test_numbers(text: str, number: int) -> None:
    assert decimal(text) == number


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "-1", "+1", "1.0", "1e5", "0x1", "1_000", "²", "٣", str(2**63), "9" * 5000],
)
def test_what_is_no_number(text: str) -> None:
    assert decimal(text) is None


def test_what_is_too_large() -> None:
    assert decimal("255", 255) == 255
    assert decimal("256", 255) is None
