"""The file that lists a host's images, and its copy, so that `docker images` is complete after
every start.

    <directory>/index.json            all images with their names
    <directory>/index.json.copy       the same, read if index.json cannot be read
    <directory>/index.json.damaged    an index that could not be read whole, for the operator

Both files are replaced atomically and durably, the copy first. An entry that cannot be read loses
only its own image; fields that this version does not know are dropped.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from weft.errors import OperationFailed, cause_of
from weft.model.container import Image
from weft.runtime.malformed import shown
from weft.system.files import replace_file

log = logging.getLogger(__name__)


class _Unreadable(Exception):
    pass


class ImageIndex:
    def __init__(self, directory: Path) -> None:
        self.path = directory / "index.json"
        self._copy = directory / "index.json.copy"
        self._damaged = directory / "index.json.damaged"

    def read(self) -> list[Image]:
        """All entries that can be read; the log names the rest."""
        try:
            entries = _entries(self.path)
        except _Unreadable as error:
            log.error("images.index_unreadable path=%s cause=%s", self.path, error)
            self._keep_damaged()
            entries = None
        if entries is None:
            return self._read_copy()
        images = _images(entries)
        if len(images) < len(entries):
            self._keep_damaged()
        elif not self._copy.exists():
            self._write_if_possible(images)
        return images

    def _read_copy(self) -> list[Image]:
        try:
            entries = _entries(self._copy)
        except _Unreadable as error:
            log.error(
                "images.lost path=%s cause=%s help=%r",
                self._copy,
                error,
                "load or pull the images again: their layers are still there",
            )
            return []
        if entries is None:
            return []
        images = _images(entries)
        log.error("images.restored path=%s images=%d", self._copy, len(images))
        self._write_if_possible(images)
        return images

    def _write_if_possible(self, images: Iterable[Image]) -> None:
        """Restores both files. A full disk must not prevent the start."""
        with suppress(OperationFailed):
            self.write(images)

    def _keep_damaged(self) -> None:
        with suppress(OSError):
            replace_file(self._damaged, self.path.read_bytes())

    def write(self, images: Iterable[Image]) -> None:
        """Raises `OperationFailed`; the old index remains then."""
        content = b"[%s]" % b",\n".join(map(msgspec.json.encode, images))
        try:
            replace_file(self._copy, content)
            replace_file(self.path, content)
        except OSError as error:
            raise OperationFailed(
                f"cannot write image index {self.path}: {cause_of(error)}"
            ) from error


def _entries(path: Path) -> list[msgspec.Raw] | None:
    """None if the file does not exist. Raises `_Unreadable`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw])
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Unreadable(cause_of(error)) from error


def _images(entries: Iterable[msgspec.Raw]) -> list[Image]:
    images = []
    for raw in entries:
        try:
            images.append(msgspec.json.decode(raw, type=Image))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.error("images.skipped image=%s cause=%s", _name(raw), cause_of(error))
    return images


def _name(raw: msgspec.Raw) -> str:
    """Names an entry that is no valid image: its first tag, its id, or its beginning."""
    with suppress(Exception):
        value = msgspec.json.decode(raw)
        return shown(str((value.get("tags") or [value["id"]])[0]))
    return shown(bytes(raw))
