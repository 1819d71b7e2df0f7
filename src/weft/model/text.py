"""Texts that others wrote, made fit to be kept and shown."""


def cut(text: str, most: int) -> str:
    """The text with at most so many characters; an ellipsis says that there were more."""
    return text if len(text) <= most else text[: most - 1] + "…"
