"""Image layers on disk: each is unpacked once, into a directory named by the digest of its plain
tar.

    <directory>/<digest>/         a complete layer
    <directory>/<digest>.size     bytes of its files
    <directory>/<digest>.outline  what its tar has beside the content of its files (`outline.py`)
    <directory>/.<random>*        a layer that is being unpacked or removed

A layer gets its name only when it is complete and its digest was right, so several daemons may
share a directory of layers.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from weft.errors import InvalidArgument, OperationFailed, cause_of
from weft.runtime.compression import Stream
from weft.runtime.malformed import Malformed
from weft.runtime.outline import archive, archive_size
from weft.runtime.room import Room
from weft.runtime.unpack import unpack
from weft.system.files import make_directory, sync_file_system
from weft.system.trees import remove_tree


class LayerStore:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self) -> None:
        """Only root may enter: a set-user-id program of an image is not for the host's users.
        Raises `OSError`."""
        make_directory(self.directory, 0o700)

    def path(self, digest: str) -> Path:
        return self.directory / digest.removeprefix("sha256:")

    def size(self, digest: str) -> int | None:
        """Bytes of the layer's files; None if the layer is not here."""
        try:
            return int(self._size_file(digest).read_text()) if self.path(digest).is_dir() else None
        except (OSError, ValueError):
            return None

    def is_whole(self, digest: str) -> bool:
        """Whether the layer is here with its outline. Older versions of Weft wrote none."""
        return self.size(digest) is not None and self._outline(digest).exists()

    def archive_size(self, digest: str) -> int:
        """Bytes of the layer's tar; 0 if it cannot be made again."""
        return archive_size(self._outline(digest))

    def archive(self, digest: str) -> Iterator[bytes]:
        """The layer's tar, in pieces. Raises `OSError`, `OperationFailed`."""
        return archive(digest, self._outline(digest), self.path(digest))

    def publish(self, digest: str, unpacked: Path, size: int) -> bool:
        """Moves a layer to its place; False if the layer is there already. Raises `OSError`."""
        self._size_file(digest).write_text(str(size))
        outline_of(unpacked).replace(self._outline(digest))
        try:
            unpacked.rename(self.path(digest))
        except OSError:
            if not self.path(digest).is_dir():
                raise
            return False
        return True

    def take_away(self, digests: Iterable[str]) -> list[Path]:
        """Moves layers out of their places; the caller must remove the directories that this
        returns."""
        gone = []
        for digest in digests:
            trash = self.temporary()
            with suppress(FileNotFoundError):
                self.path(digest).rename(trash)
                gone.append(trash)
            self._size_file(digest).unlink(missing_ok=True)
            self._outline(digest).unlink(missing_ok=True)
        return gone

    def sync(self) -> None:
        """Published layers are on the disk when this returns. Raises `OSError`."""
        sync_file_system(self.directory)

    def left_over(self) -> list[Path]:
        """Directories of a daemon that ended in the middle of its work."""
        return list(self.directory.glob(".*"))

    def temporary(self) -> Path:
        return self.directory / f".{secrets.token_hex(8)}"

    def _size_file(self, digest: str) -> Path:
        return self.path(digest).with_suffix(".size")

    def _outline(self, digest: str) -> Path:
        return outline_of(self.path(digest))


def outline_of(layer: Path) -> Path:
    return layer.with_name(f"{layer.name}.outline")


class Staging:
    """Layers of images that are being pulled or loaded: unpacked beside the others, then moved to
    their places together, or not at all."""

    def __init__(self, layers: LayerStore, stopped: Callable[[], bool]) -> None:
        """`stopped`: whether to give up."""
        self._layers = layers
        self._stopped = stopped
        self._room: Room | None = None
        self._unpacked: dict[str, tuple[Path, int]] = {}
        self._published: list[str] = []
        """The layers that were not in their places before."""

    def size(self, digest: str) -> int | None:
        """Bytes of a layer that is published, with its outline, or unpacked; None if it is
        neither."""
        if digest in self._unpacked:
            return self._unpacked[digest][1]
        return self._layers.size(digest) if self._layers.is_whole(digest) else None

    def add(self, digest: str, blob: AbstractContextManager[Stream]) -> int:
        """Unpacks a layer's tar; returns the bytes of its files. `digest`: digest of the plain tar.
        Raises `InvalidArgument`, `OperationFailed`, `Stopped`."""
        path = self._layers.temporary()
        try:
            self._layers.make()
            self._room = self._room or Room(self._layers.directory, self._stopped)
            make_directory(path, 0o755)
            self._unpacked[digest] = path, 0
            with blob as stream:
                found, size = unpack(stream, path, outline_of(path), self._room)
            if found != digest:
                raise Malformed(f"its digest is {found}")
        except Malformed as error:
            raise InvalidArgument(f"cannot unpack layer {digest}: {error}") from error
        except OSError as error:
            raise OperationFailed(f"cannot unpack layer {digest}: {cause_of(error)}") from error
        except OperationFailed as error:
            raise OperationFailed(f"cannot unpack layer {digest}: {error}") from error
        self._unpacked[digest] = path, size
        return size

    def publish(self) -> None:
        """Moves all layers to their places. Raises `OSError`."""
        for digest, (path, size) in self._unpacked.items():
            if self._layers.publish(digest, path, size):
                self._published.append(digest)

    def withdraw(self) -> None:
        """Undoes `publish`, even if it failed halfway."""
        remove_all(self._layers.take_away(self._published))
        self._published.clear()

    def drop(self) -> None:
        """Removes the layers that were not published."""
        for path, _ in self._unpacked.values():
            remove_all((path, outline_of(path)))
        self._unpacked.clear()


def remove_all(trash: Iterable[Path]) -> None:
    for path in trash:
        with suppress(OSError):  # what stays is removed when the next daemon starts
            try:
                remove_tree(path)
            except NotADirectoryError:
                path.unlink(missing_ok=True)
