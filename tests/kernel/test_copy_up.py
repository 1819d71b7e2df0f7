"""Copying an image's files into a new volume: all that a file has is kept, nothing is copied out of
either tree, and a copy that fails leaves nothing."""

import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from weft.errors import OperationFailed
from weft.runtime.copy_up import StoppedError, copy_tree, tree_size

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@pytest.fixture
def trees(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    yield source, target
    subprocess.run(["rm", "-rf", source, target], check=True)  # too deep for pytest


def copied(source: Path, target: Path, stop: threading.Event | None = None) -> None:
    old, new = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target))
    try:
        copy_tree(old, new, stop or threading.Event())
    finally:
        os.close(old)
        os.close(new)


def described(root: Path) -> dict[str, tuple[object, ...]]:
    return {str(path.relative_to(root)): facts(path) for path in (root, *sorted(root.rglob("*")))}


def facts(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    if path.is_symlink():
        content: object = path.readlink()
    else:
        content = path.read_bytes() if stat.S_ISREG(found.st_mode) else found.st_rdev
    attributes = {n: os.getxattr(path, n, follow_symlinks=False)
                  for n in os.listxattr(path, follow_symlinks=False)}  # fmt: skip
    links = 0 if path.is_dir() and not path.is_symlink() else found.st_nlink
    return found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, links, attributes, content


def filled(source: Path) -> None:
    inner = source / "inner"
    inner.mkdir()
    (inner / "deep").mkdir(mode=0o700)
    program = inner / "program"
    program.write_bytes(b"#!/bin/sh\n")
    os.chown(program, 7, 8)
    program.chmod(0o6755)
    os.setxattr(program, "security.capability", CAPABILITY)
    os.setxattr(inner, "user.note", b"kept")
    os.link(program, source / "second name")
    os.link(program, inner / "deep" / "third")
    (source / "out").symlink_to("/etc/passwd")
    (source / "gone").symlink_to("../nowhere")
    os.chown(source / "out", 5, 6, follow_symlinks=False)
    os.mkfifo(source / "fifo", 0o622)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (source / "null").chmod(0o666)
    with (source / "holes").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(10 << 20)
        file.write(b"x" * 5000)
    os.chown(source, 70, 71)
    source.chmod(0o2750)
    for path in (*source.rglob("*"), source):
        os.utime(path, ns=(1, 10**18 + len(str(path))), follow_symlinks=False)


def test_everything_is_kept(trees: tuple[Path, Path]) -> None:
    source, target = trees
    filled(source)
    copied(source, target)
    assert described(target) == described(source)
    assert (target / "second name").samefile(target / "inner" / "deep" / "third")
    assert (target / "holes").stat().st_blocks * 512 < 1 << 20


def test_an_empty_directory_gives_its_owner(trees: tuple[Path, Path]) -> None:
    source, target = trees
    os.chown(source, 70, 71)
    copied(source, target)
    assert (target.stat().st_uid, target.stat().st_gid) == (70, 71)


def test_a_tree_as_deep_as_a_path_can_be(trees: tuple[Path, Path]) -> None:
    source, target = trees
    here = os.open(source, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    copied(source, target)
    found = subprocess.run(["find", target, "-type", "d"], capture_output=True, check=True)
    assert found.stdout.count(b"\n") == 1101


def test_a_copy_that_fails_or_is_given_up_leaves_nothing(trees: tuple[Path, Path]) -> None:
    source, target = trees
    filled(source)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", target], check=True)
    try:
        (source / "large").write_bytes(b"x" * (1 << 20))
        with pytest.raises(OperationFailed, match=r"cannot copy .*: No space left on device"):
            copied(source, target)
        assert list(target.iterdir()) == []
    finally:
        subprocess.run(["umount", target], check=True)
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        copied(source, target, stop)
    assert list(target.iterdir()) == []


@pytest.fixture
def exchanging(trees: tuple[Path, Path]) -> Iterator[Path]:
    """Somebody who has the volume exchanges its directories for links to a directory of the host,
    all the time."""
    _, target = trees
    outside = target.parent / "outside"
    outside.mkdir()
    stop = threading.Event()

    def exchange() -> None:
        while not stop.is_set():
            for path in list(target.iterdir()):
                try:
                    path.rename(path.with_name(path.name + "'"))
                    path.symlink_to(outside)
                except OSError:
                    continue

    thread = threading.Thread(target=exchange)
    thread.start()
    yield outside
    stop.set()
    thread.join()


def test_nobody_who_has_the_volume_makes_the_copy_leave_it(
    trees: tuple[Path, Path], exchanging: Path
) -> None:
    source, target = trees
    for number in range(40):
        (source / f"{number}").mkdir()
        for name in "abc":
            (source / f"{number}" / name).write_text(name)
        os.link(source / f"{number}" / "a", source / f"{number}" / "again")
    os.chown(source / "0" / "a", 70, 70)
    mode = exchanging.stat()
    failed = 0
    for _ in range(5):
        try:
            copied(source, target)
        except OperationFailed:
            failed += 1
    assert failed
    assert list(exchanging.iterdir()) == []
    now = exchanging.stat()
    assert (now.st_uid, now.st_mode, now.st_mtime_ns) == (
        mode.st_uid,
        mode.st_mode,
        mode.st_mtime_ns,
    )


def test_the_size_counts_every_file_once(trees: tuple[Path, Path]) -> None:
    source, _ = trees
    (source / "inner").mkdir()
    (source / "inner" / "file").write_bytes(b"12345")
    os.link(source / "inner" / "file", source / "again")
    (source / "link").symlink_to("abc")
    (source / "loop").symlink_to(".")
    descriptor = os.open(source, os.O_RDONLY)
    assert tree_size(descriptor) == 5 + 3 + 1
    os.close(descriptor)
