"""Trees that others wrote: nothing leads out of them, and they are removed whatever their shape."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.system.trees import open_inside, remove_tree


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "name").write_text("outside")
    inside = tmp_path / "inside"
    (inside / "outside").mkdir(parents=True)
    (inside / "outside" / "name").write_text("inside")
    (inside / "up").symlink_to("../outside")
    (inside / "far").symlink_to("/outside")
    (inside / "round").symlink_to("round")
    (inside / "process").symlink_to("/proc/self/root")
    fd = os.open(inside, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    "path",
    ["outside/name", "/outside/name", "../outside/name", "../../up/name", "up/name", "far/name"],
)
def test_every_way_ends_in_the_root(root: int, path: str) -> None:
    with open(open_inside(root, path.encode(), os.O_RDONLY)) as file:
        assert file.read() == "inside"


@pytest.mark.parametrize(
    "path", ["round", "process/etc", "outside/name\0/../../../outside/name", "absent", "x" * 5000]
)
def test_what_has_no_end_in_the_root_is_an_error(root: int, path: str) -> None:
    with pytest.raises(OSError):
        open_inside(root, path.encode(), os.O_RDONLY)


def test_a_file_is_made_inside(root: int, tmp_path: Path) -> None:
    os.close(open_inside(root, b"far/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
    assert (tmp_path / "inside" / "outside" / "new").stat().st_mode & 0o777 == 0o640 & ~umask()
    assert not (tmp_path / "outside" / "new").exists()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_tree_deeper_than_a_path_may_be_long_is_removed(tmp_path: Path) -> None:
    top = fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        if fd != top:
            os.close(fd)
        fd = below
    os.close(fd)
    os.close(top)
    remove_tree(tmp_path / "d")
    assert os.listdir(tmp_path) == ["f"]


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    tree = tmp_path / "tree"
    for number in range(300):
        (tree / str(number) / "below" / "deeper").mkdir(parents=True)
    (tree / "0" / "link").symlink_to(kept)
    (tree / "link").symlink_to(kept / "file")
    (tmp_path / "link").symlink_to(tree)
    with pytest.raises(OSError):
        remove_tree(tmp_path / "link")
    remove_tree(tree)
    remove_tree(tree)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "kept", "link"]


def test_a_tree_is_named_from_a_descriptor(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    fd = os.open(tmp_path / "a", os.O_RDONLY)
    remove_tree(b"b", dir_fd=fd)
    os.close(fd)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
