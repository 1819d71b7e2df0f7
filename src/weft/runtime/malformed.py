"""What is wrong with an archive or a document that somebody else made, said within bounds."""

_SHOWN = 80
"""Characters of a foreign name in a message: more would let an archive write the log."""


class Malformed(Exception):
    """The cause alone; the caller that knows what was wanted puts `cannot <verb> <object>` before
    it."""


def shown(name: bytes | str) -> str:
    """A foreign name, quoted, without control characters, its middle left out if it is long."""
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    if len(text) > _SHOWN:
        text = f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 2 :]}"
    return repr(text)
