"""The files of a container that does not run, with its volumes and its directories of the host
where its processes would see them. File systems in memory (tmpfs) exist only while it runs.

The mounts are made on the container's overlay, and then the whole is cloned as a tree of mounts
that only a descriptor names (`mount_trees.py`): whoever looks into the container keeps it, and
the overlay is unmounted at once. Blocks: call it in a thread.
"""

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.model.volume import MountPoint
from weft.runtime import mount_trees
from weft.system.trees import open_beneath, open_inside

_NAMED = os.O_PATH | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


def is_seen(point: MountPoint) -> bool:
    """Whether the mount is there also while the container does not run."""
    return point.type in ("bind", "volume")


def open_view(merged: Path, points: Iterable[MountPoint], read_only: bool) -> int:
    """A descriptor of the container's root. `merged`: where its overlay is mounted for this view;
    the caller unmounts it. `read_only`: the container's own files. Missing targets of mounts are
    made, as at the container's start. Raises `OSError`, `OperationFailed`."""
    with ExitStack() as cleanup:
        root = os.open(merged, _NAMED | os.O_DIRECTORY)
        cleanup.callback(os.close, root)
        for point in sorted(points, key=lambda point: point.destination.count("/")):
            if is_seen(point):
                _mount(root, point)
        tree = mount_trees.clone(root, recursive=True)
        try:
            if read_only:
                mount_trees.make_read_only(tree, recursive=False)
        except BaseException:
            os.close(tree)
            raise
        return tree


def innermost(
    points: Iterable[MountPoint], path: bytes, resolved: Callable[[bytes], bytes]
) -> MountPoint | None:
    """The mount that a path without symbolic links is in. `resolved` gives such a path."""
    best, depth = None, -1
    for point in points:
        target = resolved(os.fsencode(point.destination)).rstrip(b"/")
        if (path + b"/").startswith(target + b"/") and len(target) > depth:
            best, depth = point, len(target)
    return best


def _mount(root: int, point: MountPoint) -> None:
    request = point.request.bind if point.request is not None else None
    try:
        with ExitStack() as cleanup:

            def held(descriptor: int) -> int:
                cleanup.callback(os.close, descriptor)
                return descriptor

            source = held(_source(point))
            is_directory = stat.S_ISDIR(os.fstat(source).st_mode)
            target = held(_target(root, os.fsencode(point.destination), is_directory))
            recursive = request is None or not request.non_recursive
            tree = held(mount_trees.clone(source, recursive=recursive))
            mount_trees.make_private(tree)
            if point.read_only:
                whole = request is None or not request.read_only_non_recursive
                mount_trees.make_read_only(tree, recursive=whole)
            mount_trees.attach(tree, target)
    except OSError as error:
        raise OperationFailed(
            f"cannot mount {point.name or point.source} on {point.destination}: {cause_of(error)}"
        ) from error


def _source(point: MountPoint) -> int:
    source = os.open(point.source, _NAMED)
    if not point.subpath:
        return source
    try:
        return open_beneath(source, os.fsencode(point.subpath), os.O_PATH, links=True)
    finally:
        os.close(source)


def _target(root: int, path: bytes, is_directory: bool) -> int:
    """What the path names in the container; made if it is missing."""
    with suppress(FileNotFoundError):
        return open_inside(root, path, os.O_PATH)
    parent, name = b"/", b""
    *parents, last = path.strip(b"/").split(b"/")
    for name in parents:
        _make(root, parent, name, is_directory=True)
        parent = os.path.join(parent, name)
    _make(root, parent, last, is_directory=is_directory)
    return open_inside(root, path, os.O_PATH)


def _make(root: int, parent: bytes, name: bytes, *, is_directory: bool) -> None:
    """Unless there is something of that name: a link that leads nowhere stays one."""
    directory = open_inside(root, parent, _DIRECTORY)
    try:
        with suppress(FileExistsError):
            if is_directory:
                os.mkdir(name, 0o755, dir_fd=directory)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o755, dir_fd=directory))
    finally:
        os.close(directory)
