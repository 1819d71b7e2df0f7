"""A container's changes to its image's files, as the tar of a layer (OCI image-spec, layer.md): for
`docker commit`.

The container may go on meanwhile: see `copy_out.py`. Files that the daemon makes in every container
are left out, as they are in `docker diff`.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from weft.errors import OperationFailed
from weft.runtime.copy_out import Entries, in_pieces
from weft.runtime.tar_headers import TRAILER, can_be_archived, plain_file
from weft.runtime.unpack import OPAQUE, WHITEOUT, is_whiteout
from weft.runtime.upper import OURS, is_opaque
from weft.runtime.walk import Found, Walk

_ETC = b"etc"
_REDIRECTIONS = ("trusted.overlay.redirect", "trusted.overlay.metacopy")
"""Attributes by which the kernel says that the rest of an entry lies in a lower layer."""
_NOWHERE = ("/dev/", "/proc/", "/sys/")


def layer(upper: Path) -> Iterator[bytes]:
    """The tar, in pieces. Raises `OSError`, and `OperationFailed` for what no layer can have."""
    yield from in_pieces(_parts(upper))
    yield TRAILER


def _parts(upper: Path) -> Iterator[bytes]:
    entries = Entries()
    etc = b""
    """The header of /etc, until there is something in it that the container has made."""
    for found in _changed(upper):
        _check(found)
        entry = _entry(entries, found)
        if found.name == _ETC and stat.S_ISDIR(found.status.st_mode) and not is_opaque(found.fd):
            etc = b"".join(entry)
            continue
        if etc and found.name.startswith(_ETC + b"/"):
            yield etc
            etc = b""
        yield from entry


def _changed(upper: Path) -> Iterator[Found]:
    top = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with ExitStack() as cleanup:
        cleanup.callback(os.close, top)
        walk = cleanup.enter_context(Walk(top))
        for found in walk:
            path = "/" + os.fsdecode(found.name)
            if path in OURS or path.startswith(_NOWHERE):
                continue
            yield found
            if stat.S_ISDIR(found.status.st_mode):
                walk.enter(found)


def _check(found: Found) -> None:
    base = found.name.rpartition(b"/")[2]
    if base.startswith(WHITEOUT):
        raise OperationFailed(
            f"{os.fsdecode(found.name)!r} cannot be in a layer: names that begin with .wh. mean"
            " that a file is gone"
        )
    path = f"/proc/self/fd/{found.fd}"
    for name in _REDIRECTIONS if not stat.S_ISLNK(found.status.st_mode) else ():
        with suppress(OSError):
            os.getxattr(path, name)
            raise OperationFailed(
                f"the kernel keeps a part of {os.fsdecode(found.name)!r} in another layer"
            )


def _entry(entries: Entries, found: Found) -> Iterator[bytes]:
    head, slash, base = found.name.rpartition(b"/")
    if is_whiteout(found.status):
        yield plain_file(os.fsdecode(head + slash + WHITEOUT + base), 0, 0)
        return
    if can_be_archived(found.status):
        yield from entries.entry(*found)
    if stat.S_ISDIR(found.status.st_mode) and is_opaque(found.fd):
        yield plain_file(os.fsdecode(found.name + b"/" + OPAQUE), 0, 0)
