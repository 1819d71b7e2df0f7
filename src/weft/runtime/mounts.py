"""mount(2) and umount2(2). A container's root file system is an overlay of its image's layers and a
directory of its own.

Mounts are made in the daemon's own mount namespace and are private to it. mount(2) accepts only one
page of options. Paths that do not fit are given as `/proc/self/fd/N`, so neither the length of the
data root nor the number of layers matters.
"""

import ctypes
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.system.trees import remove_tree

_MS_RDONLY = 1
_MS_REMOUNT = 32
_MS_BIND = 0x1000
_MS_REC = 0x4000
_HARMLESS = 2 | 4 | 8
"""MS_NOSUID, MS_NODEV, MS_NOEXEC."""
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_OPTIONS_MAX = 4000
"""Bytes: mount(2) accepts at most one page of options, including the terminator."""
_libc = ctypes.CDLL(None, use_errno=True)


def mount_overlay(
    lower: Sequence[Path], upper: Path, work: Path, target: Path, *, volatile: bool = False
) -> None:
    """`lower`: layers from the bottom up. `volatile`: nothing waits for the disk, so what is written
    may be lost with the host's power. Otherwise the end of the mount waits until all of the file
    system where `upper` is has been written out: a second, where others write much. Raises
    `OperationFailed`."""
    _forget_volatile(work)
    with ExitStack() as open_directories:

        def short(path: Path) -> str:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
            open_directories.callback(os.close, fd)
            return f"/proc/self/fd/{fd}"

        more = ",volatile" if volatile else ""
        try:
            options = _overlay_options([*map(str, reversed(lower))], str(upper), str(work)) + more
            if len(options) > _OPTIONS_MAX or any(":" in str(path) for path in lower):
                options = _overlay_options(
                    [short(path) for path in reversed(lower)], short(upper), short(work)
                )
                options += more
            _mount("overlay", target, "overlay", 0, options)
        except OSError as error:
            raise OperationFailed(
                f"cannot mount root file system on {target}: {cause_of(error)}"
            ) from error
    _mount("none", target, "", _MS_PRIVATE, "")


def mount_memory(target: Path) -> None:
    """Mounts a file system that is only in memory and never in swap. Raises `OSError`."""
    _mount("ramfs", target, "ramfs", _HARMLESS, "mode=700")
    _mount("none", target, "", _MS_PRIVATE, "")


def protect_memory(target: Path) -> None:
    """Lets nobody change the file system any more, through whichever mount. Raises `OSError`."""
    _mount("none", target, "", _MS_REMOUNT | _MS_RDONLY | _HARMLESS, "")


def mount_shared_memory(target: Path, size: int) -> None:
    """Mounts a file system for /dev/shm of several containers. `size`: bytes. Raises
    `OperationFailed`."""
    try:
        target.mkdir(mode=0o700, exist_ok=True)
        _mount("shm", target, "tmpfs", _HARMLESS, f"mode=1777,size={size}")
        _mount("none", target, "", _MS_PRIVATE, "")
    except OSError as error:
        raise OperationFailed(
            f"cannot mount shared memory on {target}: {cause_of(error)}"
        ) from error


def unmount_shared_memory(target: Path) -> None:
    """Leaves no directory: a container that joins too late must not get one of the disk."""
    unmount(target)
    with suppress(OSError):
        target.rmdir()


def unmount(target: Path) -> None:
    """Removes every mount on `target`; no mount is no error. Open files keep the file system below
    until they are closed."""
    while _libc.umount2(os.fsencode(target), _MNT_DETACH) == 0:
        pass


def mount_points_below(directory: Path) -> list[Path]:
    """Mount points below `directory` in this mount namespace, deepest first."""
    prefix = f"{directory.resolve()}/"
    return sorted((Path(point) for point in _points() if point.startswith(prefix)), reverse=True)


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted on the path, which has no symbolic links. Asks the kernel's
    table and not the path, since a file server may not answer."""
    return str(path) in _points()


def _points() -> list[str]:
    """The mount points of this mount namespace."""
    return [
        os.fsdecode(line.split(b" ")[4]).encode().decode("unicode_escape")
        if b"\\" in line
        else os.fsdecode(line.split(b" ")[4])
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines()
    ]


def bind(source: int, target: Path) -> None:
    """Mounts what a descriptor is open on, with all that is mounted below it, on a directory or
    file. No name of the source is looked up. Raises `OSError`."""
    _mount(f"/proc/self/fd/{source}", target, "", _MS_BIND | _MS_REC, "")
    _mount("none", target, "", _MS_PRIVATE | _MS_REC, "")


def make_private(directory: Path) -> None:
    """Makes future mounts below `directory` visible in this mount namespace only. Has an effect
    only where mounts are shared with other namespaces (the default of systemd): `directory` is then
    mounted on itself."""
    point, sharing = sharing_of(directory.resolve())
    if "shared" in sharing:
        if point != directory.resolve():
            _mount(str(directory), directory, "", _MS_BIND, "")
        _mount("none", directory, "", _MS_PRIVATE, "")


def sharing_of(path: Path) -> tuple[Path, frozenset[str]]:
    """(mount point of `path`, which of `shared`, `master` and others the mount is), from
    /proc/self/mountinfo: see proc_pid_mountinfo(5)."""
    best, sharing = Path("/"), frozenset[str]()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        point = Path(fields[4].encode().decode("unicode_escape"))
        if path.is_relative_to(point) and len(point.parts) >= len(best.parts):
            words = fields[6 : fields.index("-")]
            best, sharing = point, frozenset(word.partition(":")[0] for word in words)
    return best, sharing


def _forget_volatile(work: Path) -> None:
    """A volatile mount leaves a mark, and the kernel mounts such an overlay no second time (Linux,
    Documentation/filesystems/overlayfs.rst, "Volatile mount"): it cannot tell whether the host has
    lost its power in between. Our callers can: they use none that may have lost something."""
    mark = work / "work" / "incompat"
    if mark.exists():
        remove_tree(mark)


def _overlay_options(lower: list[str], upper: str, work: str) -> str:
    return f"lowerdir={':'.join(lower)},upperdir={upper},workdir={work}"


def _mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    if (
        _libc.mount(
            source.encode(),
            os.fsencode(target),
            kind.encode(),
            ctypes.c_ulong(flags),
            options.encode(),
        )
        != 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
