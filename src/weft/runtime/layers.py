"""Image layers on disk: each unpacked once, into a directory named by its digest, in the form in which overlayfs reads it.

A layer's tar is not trusted: whatever it says stays inside the layer's directory. `.wh.name` (OCI image-spec, layer.md,
"Whiteouts") becomes overlayfs' device 0/0, an opaque directory gets `trusted.overlay.opaque`. A layer appears at its name only
when it is whole and its digest was right, so several daemons may share a directory of layers.
"""

import gzip
import hashlib
import os
import secrets
import shutil
import stat
import tarfile
from pathlib import Path
from typing import IO, Any

from weft.errors import OperationFailed
from weft.runtime.rootfs import resolve
from weft.system.files import make_directory, make_missing

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 18


class LayerStore:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, digest: str) -> Path:
        return self._directory / digest.removeprefix("sha256:")

    def size(self, digest: str) -> int | None:
        """Bytes of its files; None if it is not here."""
        try:
            return int(self._size_file(digest).read_text()) if self.path(digest).is_dir() else None
        except (OSError, ValueError):
            return None

    def add(self, digest: str, stream: IO[bytes]) -> int:
        """Unpacks a layer's tar, plain or gzip; gives its size. `digest`: of the plain tar. Raises `OperationFailed`."""
        known = self.size(digest)
        if known is not None:
            return known
        temporary = self._directory / f".{secrets.token_hex(8)}"
        try:
            make_directory(self._directory, 0o700)  # a set-user-id program of an image is not for the host's users
            make_directory(temporary, 0o755)
            found, size = _unpack(stream, temporary)
            if found != digest:
                raise OperationFailed(f"cannot unpack layer {digest}: its digest is {found}")
            self._size_file(digest).write_text(str(size))
            self._publish(temporary, self.path(digest))
        except (OSError, tarfile.TarError, EOFError) as error:
            raise OperationFailed(f"cannot unpack layer {digest}: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return size

    def remove(self, digest: str) -> None:
        self._size_file(digest).unlink(missing_ok=True)
        shutil.rmtree(self.path(digest), ignore_errors=True)

    def _size_file(self, digest: str) -> Path:
        return self.path(digest).with_suffix(".size")

    def _publish(self, temporary: Path, final: Path) -> None:
        """Another daemon may have been faster: its copy is as good."""
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():
                raise


class _Hashed:
    """A stream that digests what is read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        return data


def _unpack(stream: IO[bytes], root: Path) -> tuple[str, int]:
    """(digest of the plain tar, bytes of its files)."""
    plain = _Hashed(_decompressed(stream))
    size = 0
    directories: list[tuple[Path, int]] = []
    with tarfile.open(fileobj=plain, mode="r|", errorlevel=2) as tar:  # type: ignore[call-overload]  # any object with `read`
        for member in tar:
            _unpack_member(tar, member, root, directories)
            size += member.size if member.isreg() else 0
    for path, moment in reversed(directories):
        if path.is_dir() and not path.is_symlink():
            os.utime(path, (moment, moment))
    while plain.read(_CHUNK):
        pass
    return f"sha256:{plain.digest.hexdigest()}", size


def _decompressed(stream: IO[bytes]) -> IO[bytes]:
    magic = stream.read(4)
    stream.seek(0)
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]  # it has `read`
    if magic == _ZSTD:
        raise OperationFailed(
            "cannot unpack layer: it is compressed with zstd; `docker pull` can fetch it, `docker load` cannot"
        )
    return stream


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, directories: list[tuple[Path, int]]) -> None:
    name = os.path.normpath("/" + member.name)
    if name == "/":
        _set_metadata(root, member)
        return
    head, tail = os.path.split(name)
    parent = resolve(root, head)
    make_missing(parent, 0o755)
    if tail == _OPAQUE:
        os.setxattr(parent, "trusted.overlay.opaque", b"y")
        return
    if tail.startswith(_WHITEOUT):
        path = parent / tail.removeprefix(_WHITEOUT)
        _clear(path)
        os.mknod(path, stat.S_IFCHR, 0)
        return
    path = parent / tail
    if not (member.isdir() and path.is_dir() and not path.is_symlink()):
        _clear(path)
        _make(tar, member, root, path)
    if not member.islnk():
        _set_metadata(path, member)
    if member.isdir():
        directories.append((path, int(member.mtime)))


def _make(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, path: Path) -> None:
    if member.isdir():
        path.mkdir()
    elif member.issym():
        path.symlink_to(member.linkname)
    elif member.islnk():
        head, tail = os.path.split(os.path.normpath("/" + member.linkname))
        os.link(resolve(root, head) / tail, path, follow_symlinks=False)
    elif member.ischr() or member.isblk():
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        os.mknod(path, kind | 0o600, os.makedev(member.devmajor, member.devminor))
    elif member.isfifo():
        os.mkfifo(path)
    elif member.isreg():
        content: Any = tar.extractfile(member)
        with path.open("xb") as file:
            shutil.copyfileobj(content, file, _CHUNK)
    else:
        raise OperationFailed(f"cannot unpack {member.name!r}: unknown type {member.type!r}")


def _set_metadata(path: Path, member: tarfile.TarInfo) -> None:
    os.chown(path, member.uid, member.gid, follow_symlinks=False)
    if not member.issym():
        path.chmod(member.mode & 0o7777)
    for key, value in member.pax_headers.items():
        name = key.removeprefix(_XATTR)
        if name != key and not name.startswith("trusted.overlay."):
            os.setxattr(path, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False)
    os.utime(path, (member.mtime, member.mtime), follow_symlinks=False)


def _clear(path: Path) -> None:
    """Later entries of a layer replace earlier ones."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
