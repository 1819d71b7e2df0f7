"""What a container has changed of its image's files: the upper directory of its overlay, which the
container fills while it runs.

Nothing in it is opened but directories. Files that the daemon or the OCI runtime makes in every
container are no change.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from weft.errors import OperationFailed
from weft.model.inside import Change
from weft.runtime.copy_out import LINKS_MAX
from weft.runtime.init_files import MARK, MOUNTS
from weft.runtime.unpack import OPAQUE_XATTR, is_whiteout
from weft.runtime.walk import DEPTH_MAX, Walk
from weft.system.trees import open_inside

CHANGES_MAX = 200_000
"""More would fill the daemon's memory."""
OURS = frozenset((
    MARK, MOUNTS, "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev", "/proc", "/sys",
))  # fmt: skip


def size_of(upper: Path) -> int:
    """Bytes of all files, by the size that they show. Files below `DEPTH_MAX` directories do not
    count. Raises `OSError`."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for path, status, _ in _walk(upper):
        key = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode) or path in OURS or key in seen:
            continue
        if status.st_nlink > 1 and len(seen) < LINKS_MAX:
            seen.add(key)
        total += status.st_size
    return total


def changes(upper: Path, layers: Sequence[Path]) -> list[Change]:
    """Sorted by path. `layers`: the image's, bottom first. Raises `OSError`, and `OperationFailed`
    for too many."""
    with ExitStack() as cleanup:
        below = _Below(layers, cleanup)
        found: dict[str, Change] = {}
        for path, status, is_opaque in _walk(upper):
            if len(found) > CHANGES_MAX:
                raise OperationFailed(f"it has more than {CHANGES_MAX} changes")
            change = _change(path, status, None if is_opaque else below.status(path))
            if change is not None:
                found[path] = change
    if not any(path.startswith("/etc/") for path in found) and "/etc" in found:
        del found["/etc"]  # only what the daemon made has changed it
    return [found[path] for path in sorted(found)]


def _change(path: str, status: os.stat_result, before: os.stat_result | None) -> Change | None:
    if path in OURS or path.startswith("/dev/"):
        return None
    if is_whiteout(status):
        return Change(path, "deleted")
    if before is None:
        return Change(path, "added")
    both = stat.S_ISDIR(status.st_mode) and stat.S_ISDIR(before.st_mode)
    if both and before.st_mtime_ns == status.st_mtime_ns and before.st_mode == status.st_mode:
        return None  # it is here only because of what is in it
    return Change(path, "modified")


def _walk(upper: Path) -> Iterator[tuple[str, os.stat_result, bool]]:
    """(path, status, whether a directory on the way hides the image's content)."""
    top = os.open(upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with ExitStack() as cleanup:
        cleanup.callback(os.close, top)
        walk = cleanup.enter_context(Walk(top, b"/"))
        opaque_from = 0
        """The depth from which on the image's content is hidden; 0: it is not."""
        for found in walk:
            if walk.depth < opaque_from:
                opaque_from = 0
            yield os.fsdecode(found.name), found.status, opaque_from > 0
            if stat.S_ISDIR(found.status.st_mode) and walk.depth < DEPTH_MAX:
                if not opaque_from and is_opaque(found.fd):
                    opaque_from = walk.depth + 1
                walk.enter(found)


def is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", OPAQUE_XATTR) == b"y"
    except OSError:
        return False


class _Below:
    """The image's files, as the layers together show them."""

    def __init__(self, layers: Sequence[Path], cleanup: ExitStack) -> None:
        self._layers = [
            os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for layer in reversed(layers)
        ]
        for layer in self._layers:
            cleanup.callback(os.close, layer)

    def status(self, path: str) -> os.stat_result | None:
        """None if the image has no such file."""
        name = os.fsencode(path).lstrip(b"/")
        for layer in self._layers:
            status = _status(layer, name)
            if status is not None:
                return None if is_whiteout(status) else status
            if _hides(layer, name):
                return None
        return None


def _status(layer: int, name: bytes) -> os.stat_result | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        fd = open_inside(layer, name, os.O_PATH | os.O_NOFOLLOW)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)
    return None


def _hides(layer: int, name: bytes) -> bool:
    """Whether a directory on the way to the file hides the layers below."""
    parts = name.split(b"/")
    for end in range(1, len(parts)):
        status = _status(layer, b"/".join(parts[:end]))
        if status is None:
            return False
        if not stat.S_ISDIR(status.st_mode):
            return True
        fd = open_inside(layer, b"/".join(parts[:end]), os.O_PATH)
        try:
            if is_opaque(fd):
                return True
        finally:
            os.close(fd)
    return False
