"""Outlines of layers that a loss of power, or a full disk, has left damaged."""

import hashlib
import os
from pathlib import Path

import pytest

from weft.errors import OperationFailed
from weft.runtime.outline import OutlineWriter, archive, archive_size
from weft.runtime.room import Room

CONTENT = os.urandom(5000)
AROUND = os.urandom(3000)


def written(directory: Path) -> tuple[str, Path, Path]:
    """The digest of a tar of a kind, its outline, and its layer with one file."""
    outline, layer = directory / "outline", directory / "layer"
    layer.mkdir()
    (layer / "file").write_bytes(CONTENT)
    with OutlineWriter(outline, Room(directory)) as writer:
        writer.take(AROUND)
        writer.content(b"file", len(CONTENT))
        writer.take(CONTENT)
        writer.take(AROUND)
    tar = AROUND + CONTENT + AROUND
    assert archive_size(outline) == len(tar)
    assert b"".join(archive(_digest(tar), outline, layer)) == tar
    return _digest(tar), outline, layer


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_an_outline_that_was_cut_anywhere(tmp_path: Path) -> None:
    digest, outline, layer = written(tmp_path)
    whole = outline.read_bytes()
    for length in range(len(whole)):
        outline.write_bytes(whole[:length])
        with pytest.raises(OperationFailed, match="layer"):
            b"".join(archive(digest, outline, layer))


def test_an_outline_with_wrong_bytes(tmp_path: Path) -> None:
    digest, outline, layer = written(tmp_path)
    whole = outline.read_bytes()
    for place in range(8, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        outline.write_bytes(damaged)
        try:
            said = b"".join(archive(digest, outline, layer))
        except (OperationFailed, OSError):
            continue
        assert _digest(said) == digest
