"""Limits text from outside, so that it can be stored and shown."""


def cut(text: str, most: int) -> str:
    """At most `most` characters of the text; an ellipsis marks that it was longer."""
    return text if len(text) <= most else text[: most - 1] + "…"
