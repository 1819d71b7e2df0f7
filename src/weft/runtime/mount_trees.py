"""Trees of mounts that have no place in the file system and that only a descriptor names:
open_tree(2), mount_setattr(2), move_mount(2), Linux 5.12. The kernel dissolves such a tree when its
descriptor is closed, so a daemon that is killed leaves nothing.

All files are given by descriptors: no name is looked up, so whoever exchanges a name for a link
changes nothing.
"""

import ctypes
import os

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_MOUNT_SETATTR = 428, 429, 442
"""The same numbers on every architecture."""
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_FROM_EMPTY_PATH, _TO_EMPTY_PATH = 0x04, 0x40
"""MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH."""
_RDONLY = 1
"""MOUNT_ATTR_RDONLY."""
_PRIVATE = 1 << 18
"""MS_PRIVATE."""
_libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    """struct mount_attr."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64), ("attr_clr", ctypes.c_uint64), ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )  # fmt: skip


def clone(file: int, *, recursive: bool) -> int:
    """A new tree whose root is the file or directory. `recursive`: with all that is mounted below.
    Raises `OSError`."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    return _checked(_libc.syscall(_SYS_OPEN_TREE, file, b"", ctypes.c_uint(flags)))


def make_private(tree: int) -> None:
    """No mount of the tree tells others of mounts below it, or is told. Raises `OSError`."""
    _set(tree, _Attributes(propagation=_PRIVATE), recursive=True)


def make_read_only(tree: int, *, recursive: bool) -> None:
    """Raises `OSError`."""
    _set(tree, _Attributes(attr_set=_RDONLY), recursive=recursive)


def attach(tree: int, target: int) -> None:
    """Mounts the tree on a file or directory. Raises `OSError`."""
    flags = ctypes.c_uint(_FROM_EMPTY_PATH | _TO_EMPTY_PATH)
    _checked(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", target, b"", flags))


def _set(tree: int, attributes: _Attributes, *, recursive: bool) -> None:
    flags = ctypes.c_uint(_AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0))
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _checked(_libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", flags, ctypes.byref(attributes), size))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
