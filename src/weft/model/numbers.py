"""Numbers that others wrote as text: in a query, an option, a file of a container."""

MOST_DIGITS = 20
"""Of 2**64 - 1. Python refuses to read more than 4,300, and takes quadratic time for those."""


def decimal(text: str, most: int = 2**63 - 1) -> int | None:
    """What `text` says in ASCII digits and nothing else; None if that is no number, or one above
    `most`."""
    if not (text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS):
        return None
    number = int(text)
    return number if number <= most else None
