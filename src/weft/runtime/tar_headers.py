"""Writes the headers of a tar (POSIX pax): for files that `stat` has described, and for plain ones."""

import os
import stat
import tarfile

TRAILER = bytes(2 * tarfile.BLOCKSIZE)
"""The end of a tar."""
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE, stat.S_IFIFO: tarfile.FIFOTYPE,
}  # fmt: skip
"""Sockets are missing: a tar cannot have one."""
_CAPABILITY = "SCHILY.xattr.security.capability"


def can_be_archived(status: os.stat_result) -> bool:
    return stat.S_IFMT(status.st_mode) in _TYPES


def header(
    name: bytes, status: os.stat_result, target: bytes = b"", capability: bytes = b""
) -> bytes:
    """`target`: of a symbolic link. `capability`: the extended attribute of that name."""
    info = _info(name, status, _TYPES[stat.S_IFMT(status.st_mode)], target)
    if stat.S_ISREG(status.st_mode):
        info.size = status.st_size
    if info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    if capability:
        info.pax_headers = {_CAPABILITY: capability.decode("utf-8", "surrogateescape")}
    return _bytes(info)


def hard_link(name: bytes, status: os.stat_result, target: bytes) -> bytes:
    """`target`: the name of an earlier entry."""
    return _bytes(_info(name, status, tarfile.LNKTYPE, target))


def plain_file(name: str, size: int, mtime: int) -> bytes:
    """A file of root's that everybody may read. `mtime`: seconds."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, mtime
    return _bytes(info)


def plain_directory(name: str, mtime: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, mtime
    return _bytes(info)


def padding(size: int) -> bytes:
    """What follows a content of `size` bytes."""
    return bytes(-size % tarfile.BLOCKSIZE)


def _info(name: bytes, status: os.stat_result, kind: bytes, target: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(os.fsdecode(name))
    info.type = kind
    info.linkname = os.fsdecode(target)
    info.mode = stat.S_IMODE(status.st_mode)
    info.uid, info.gid = status.st_uid, status.st_gid
    info.mtime = int(status.st_mtime)
    return info


def _bytes(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
