"""Errors in an archive or document from elsewhere, described in a bounded number of characters."""

_SHOWN = 80
"""Characters of a foreign name in a message: without a limit an archive could fill the log."""


class Malformed(Exception):
    """Holds only the cause; the caller, who knows the operation, adds `cannot <verb> <object>`."""


def shown(name: bytes | str) -> str:
    """Quotes a foreign name without control characters; a long name loses its middle."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    if len(text) > _SHOWN:
        text = f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2 :]}"
    return repr(text)
