"""Files that are replaced whole."""

import os
import stat
from pathlib import Path

import pytest

from weft.system.files import make_directory, make_missing, replace_file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("any_umask")
def test_modes_are_what_was_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", b"a", mode=0o644)
    make_directory(tmp_path / "above" / "directory", 0o755)
    assert mode(tmp_path / "file") == 0o644
    assert mode(tmp_path / "above" / "directory") == 0o755
    assert mode(tmp_path / "above") == 0o700


@pytest.mark.usefixtures("any_umask")
def test_missing_directories_are_made_and_existing_ones_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there").chmod(0o511)
    make_missing(tmp_path / "there" / "a" / "b", 0o755)
    make_missing(tmp_path / "there", 0o755)
    assert mode(tmp_path / "there") == 0o511
    assert mode(tmp_path / "there" / "a") == mode(tmp_path / "there" / "a" / "b") == 0o755


def test_a_file_that_cannot_be_replaced_keeps_its_content_and_nothing_is_left_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
