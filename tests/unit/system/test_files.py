"""Files that are replaced whole."""

import os
import stat
from pathlib import Path

import pytest

from weft.system.files import make_directory, replace_file


@pytest.fixture(params=[0o022, 0o077, 0o000])
def umask(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_modes_are_what_was_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", b"a", mode=0o644)
    make_directory(tmp_path / "above" / "directory", 0o755)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "above" / "directory").stat().st_mode) == 0o755


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
