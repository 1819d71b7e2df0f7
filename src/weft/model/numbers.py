"""Parses numbers in text from outside: in a query, an option, a file of a container."""

MOST_DIGITS = 20
"""Digits of 2**64 - 1. Python refuses to parse more than 4,300 digits, and takes quadratic time up
to there."""


def decimal(text: str, most: int = 2**63 - 1) -> int | None:
    """The value of `text`, which may contain ASCII digits only; None if it contains anything else
    or is above `most`."""
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        return None
    number = int(text)
    return number if number <= most else None
