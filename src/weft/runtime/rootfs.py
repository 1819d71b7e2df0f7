"""Paths in a layer while it is unpacked, when nobody else writes there: a symbolic link must not lead out of the layer."""

from pathlib import Path

from weft.errors import InvalidArgument

_MAX_LINKS = 40
"""As the kernel's limit on symbolic links in one path."""


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
