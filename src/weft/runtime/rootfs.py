"""Looking into a container's root file system from outside, and finding the user that the container runs as.

Everything in there is the image author's: a symbolic link must not lead out of the root, and no line of a file is trusted.
"""

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from weft.errors import InvalidArgument

_MAX_LINKS = 40
"""As the kernel's limit on symbolic links in one path."""
_MAX_FILE = 1 << 20


class User(msgspec.Struct, frozen=True):
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    """Additional ones."""


def resolve(root: Path, path: str) -> Path:
    """Where `path` of the container is on this host. Symbolic links are followed as if `root` were `/`."""
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            done = done[:-1]
            continue
        here = root.joinpath(*done, part)
        if not here.is_symlink():
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise InvalidArgument(f"cannot resolve {path!r} in the image: too many symbolic links")
        target = str(here.readlink())
        if target.startswith("/"):
            done = []
        todo += [part for part in reversed(target.split("/")) if part not in ("", ".")]
    return root.joinpath(*done)


def find_user(root: Path, user: str, groups: Sequence[str] = ()) -> User:
    """`user` is `name|uid[:name|gid]`, empty for root, as in an image or a service. Raises `InvalidArgument` with the
    original's sentence for a name that the image's /etc/passwd or /etc/group does not have."""
    name, colon, group = user.partition(":")
    uid, gid, login = 0, 0, "root"
    entry = _find_passwd(root, name or "0")
    if entry is not None:
        login, uid, gid = entry
    elif name.isdecimal():
        uid, login = int(name), ""
    elif name:
        raise InvalidArgument(f"unable to find user {name}: no matching entries in passwd file")
    if colon and group:
        gid = _find_group(root, group)
    member_of = () if colon and group else tuple(number for _, number, members in _groups(root) if login and login in members)
    extra = {*member_of, *(_find_group(root, name) for name in groups)}
    return User(uid, gid, tuple(sorted(extra)))


def _find_passwd(root: Path, wanted: str) -> tuple[str, int, int] | None:
    for fields in _lines(root, "/etc/passwd"):
        if len(fields) >= 4 and wanted in (fields[0], fields[2]) and fields[2].isdecimal() and fields[3].isdecimal():
            return fields[0], int(fields[2]), int(fields[3])
    return None


def _find_group(root: Path, wanted: str) -> int:
    for name, number, _ in _groups(root):
        if wanted in (name, str(number)):
            return number
    if wanted.isdecimal():
        return int(wanted)
    raise InvalidArgument(f"unable to find group {wanted}: no matching entries in group file")


def _groups(root: Path) -> Iterator[tuple[str, int, list[str]]]:
    for fields in _lines(root, "/etc/group"):
        if len(fields) >= 3 and fields[2].isdecimal():
            yield fields[0], int(fields[2]), fields[3].split(",") if len(fields) > 3 else []


def _lines(root: Path, path: str) -> Iterator[list[str]]:
    try:
        file = resolve(root, path)
        if not stat.S_ISREG(file.stat(follow_symlinks=False).st_mode):
            return
        with file.open(errors="replace") as text:
            content = text.read(_MAX_FILE)
    except OSError:
        return
    for line in content.splitlines():
        if line and not line.startswith("#"):
            yield line.split(":")
