"""Paths in a container, as a user writes them and as the container may have prepared them."""

import os
import stat
from pathlib import Path

import pytest

from weft.errors import InvalidArgument
from weft.runtime.container_root import ContainerRoot, Wanted, wanted


@pytest.mark.parametrize(
    ("text", "path", "base", "follows", "is_content"),
    [
        ("/etc/passwd", b"etc/passwd", "passwd", False, False),
        ("etc", b"etc", "etc", False, False),
        ("/etc/", b"etc", "etc", True, False),
        ("/etc/.", b"etc", ".", True, True),
        (".", b"", ".", True, True),
        ("/", b"", "/", True, False),
        ("/a/../../b", b"b", "b", False, False),
        ("../../..", b"", "/", True, False),
        ("/a\udcff", b"a\xff", "a\udcff", False, False),
    ],
)
def test_a_path_is_understood(
    text: str, path: bytes, base: str, follows: bool, is_content: bool
) -> None:
    assert wanted(text) == Wanted(path, base, follows, is_content)


def test_an_empty_path_and_a_nul_are_refused() -> None:
    for text in ("", "/a\0b"):
        with pytest.raises(InvalidArgument):
            wanted(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inside = tmp_path / "root"
    (inside / "data/deep").mkdir(parents=True)
    (inside / "data/file").write_text("hello")
    (tmp_path / "secret").write_text("not yours")
    return inside


def test_links_are_shown_and_lead_nowhere_outside(root: Path) -> None:
    for name, target in {
        "up": "../../secret", "absolute": "/secret", "good": "/data/deep/../file", "to_dir": "data",
        "a": "b", "b": "a",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    opened = ContainerRoot.of_directory(root)
    try:
        assert opened.stat(wanted("/up")).link_target == "/secret"
        assert opened.stat(wanted("/good")).link_target == "/data/file"
        assert stat.S_ISDIR(opened.stat(wanted("/to_dir/")).mode)
        assert opened.stat(wanted("/to_dir/file")).size == 5
        for path in ("/up/", "/absolute/.", "/up/x", "/nothing", "/../secret"):
            with pytest.raises((FileNotFoundError, NotADirectoryError)):
                opened.stat(wanted(path))
        with pytest.raises(OSError, match="too many links"):
            opened.stat(wanted("/a"))
    finally:
        opened.close()


def test_nothing_that_is_looked_at_is_opened(root: Path) -> None:
    """Opening a FIFO would wait for a writer."""
    os.mkfifo(root / "pipe")
    opened = ContainerRoot.of_directory(root)
    try:
        assert stat.S_ISFIFO(opened.stat(wanted("/pipe")).mode)
    finally:
        opened.close()
