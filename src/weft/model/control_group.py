"""The control group of a container, below the group that holds all of Weft's containers.

    <id>             of most containers, and of all tasks
    foo/bar/<id>     of a plain container with the parent `/foo/bar` (`--cgroup-parent`)

Docker counts a parent from the root of the hierarchies, absolute or not, and makes it there. Weft's
containers stay below Weft's own group (docs/decisions/0036), and a parent is counted from that."""

import re

from weft.errors import InvalidArgument, clip

_MOST_PARTS = 16
_LONGEST_PART = 255
"""Bytes, of a name in a directory."""
_ID = re.compile(r"[0-9a-f]{64}")
_MONITORS = "monitors"
"""Where conmon's processes are: see `system/scopes.py`."""


def check_parent(written: str) -> None:
    """Raises `InvalidArgument` for a parent that would lead out of Weft's own group, or into that
    of a container or of the monitors."""
    parts = _parts(written)
    if ".." in parts:
        raise _invalid(written, "'..' would lead out of the control group of Weft's containers")
    if any(not character.isprintable() for character in written):
        raise _invalid(written, "it has a character that cannot be printed")
    if len(parts) > _MOST_PARTS:
        raise _invalid(written, f"it has more than {_MOST_PARTS} parts")
    for part in parts:
        if len(part.encode(errors="surrogatepass")) > _LONGEST_PART:
            raise _invalid(written, f"a part of it is longer than {_LONGEST_PART} bytes")
        if _ID.fullmatch(part):
            raise _invalid(written, f"{part} is the control group of a container")
    if parts[:1] == [_MONITORS]:
        raise _invalid(written, f"{_MONITORS} is Weft's own")


def _invalid(written: str, cause: str) -> InvalidArgument:
    return InvalidArgument(f"invalid cgroup parent {clip(written)!r}: {cause}")


def group_below(parent: str, id: str) -> str:
    """`parent`: as it was written; empty for none."""
    return "/".join((*_parts(parent), id))


def _parts(written: str) -> list[str]:
    return [part for part in written.split("/") if part not in ("", ".")]
