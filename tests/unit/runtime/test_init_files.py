"""The two files that Docker adds to every container's root."""

import os
from pathlib import Path

import pytest

from weft.runtime.init_files import make_init_files


def test_a_root_gets_both_files(tmp_path: Path) -> None:
    make_init_files(tmp_path)
    assert (tmp_path / ".dockerenv").read_bytes() == b""
    assert os.readlink(tmp_path / "etc/mtab") == "/proc/mounts"
    assert (tmp_path / "etc").stat().st_mode & 0o777 == 0o755


def test_the_images_own_files_stay(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/mtab").write_text("mine")
    (tmp_path / ".dockerenv").write_text("mine")
    make_init_files(tmp_path)
    assert (tmp_path / "etc/mtab").read_text() == "mine"
    assert (tmp_path / ".dockerenv").read_text() == "mine"


@pytest.mark.parametrize("trap", ["../../outside", "/outside", "missing"])
def test_no_link_leads_out(tmp_path: Path, trap: str) -> None:
    root, outside = tmp_path / "a/root", tmp_path / "outside"
    root.mkdir(parents=True)
    outside.mkdir()
    (root / "etc").symlink_to(trap if trap != "/outside" else outside)
    (root / ".dockerenv").symlink_to(outside / "made")
    with_trap = sorted(root.rglob("*"))
    make_init_files(root)
    assert list(outside.iterdir()) == []
    assert sorted(root.rglob("*")) == with_trap


def test_an_image_whose_etc_is_a_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("odd")
    make_init_files(tmp_path)
    assert (tmp_path / "etc").read_text() == "odd"
