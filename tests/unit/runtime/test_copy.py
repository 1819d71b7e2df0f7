"""Files out of a tree and into it, by the tar that Python itself reads and writes; and what the
tree's owner can do to whoever copies."""

import errno
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weft.errors import InvalidArgument
from weft.runtime import copy_out, tar_headers
from weft.runtime.container_root import ContainerRoot, wanted
from weft.runtime.copy_in import unpack_into
from weft.runtime.copy_out import archive, export
from weft.runtime.room import Room
from weft.runtime.walk import DEPTH_MAX

Entries = dict[str, tuple[bytes, bytes]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    inside = tmp_path / "root"
    (inside / "data/sub").mkdir(parents=True)
    (inside / "data/file").write_text("hello")
    (inside / "data/sub/other").write_bytes(bytes(1000))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("not yours")
    return inside


def out(root: Path, path: str = "") -> bytes:
    opened = ContainerRoot.of_directory(root)
    try:
        return b"".join(archive(opened, wanted(path)) if path else export(opened))
    finally:
        opened.close()


def entries(tar: bytes) -> Entries:
    """(type, content or target) by name."""
    found: Entries = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for member in opened:
            file = opened.extractfile(member) if member.isreg() else None
            content = file.read() if file else member.linkname.encode()
            found[member.name] = (member.type, content)
    return found


def into(root: Path, tar: bytes, path: str = "/data", **options: Any) -> None:
    opened = ContainerRoot.of_directory(root)
    try:
        unpack_into(opened, wanted(path), io.BytesIO(tar), Room(root), **options)
    finally:
        opened.close()


def tar_of(*members: tuple[str, bytes, bytes]) -> bytes:
    """(name, type, content or target)."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as opened:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.mtime, info.mode = kind, 1_700_000_000, 0o640
            info.uid, info.gid = os.getuid(), os.getgid()
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            else:
                info.linkname = content.decode()
            opened.addfile(info, io.BytesIO(content))
    return written.getvalue()


FILE, DIRECTORY, LINK, SYMLINK = (
    tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE,
)  # fmt: skip


def test_a_file_a_directory_and_a_directorys_content(root: Path) -> None:
    assert entries(out(root, "/data/file")) == {"file": (FILE, b"hello")}
    content = {"file": (FILE, b"hello"), "sub": (DIRECTORY, b""), "sub/other": (FILE, bytes(1000))}
    whole = {"data": (DIRECTORY, b"")} | {f"data/{name}": e for name, e in content.items()}
    assert entries(out(root, "/data")) == whole
    assert entries(out(root, "/data/.")) == {".": (DIRECTORY, b"")} | content
    assert entries(out(root)) == whole


def test_metadata_links_and_odd_names_survive(root: Path) -> None:
    name = "é" * 60 + "/" + "x" * 120
    (root / "data" / name).parent.mkdir()
    (root / "data" / name).write_text("long")
    os.chmod(root / "data/file", 0o4751)
    os.utime(root / "data/file", (1_600_000_000, 1_600_000_000))
    os.link(root / "data/file", root / "data/sub/same")
    (root / "data/link").symlink_to("/no/where")
    odd = os.fsencode(root) + b"/data/\xff"
    Path(os.fsdecode(odd)).write_text("odd")
    copied = root.parent / "copied"
    (copied / "data").mkdir(parents=True)
    into(copied, out(root, "/data/."))
    status = (copied / "data/file").stat()
    assert (status.st_mode & 0o7777, status.st_mtime) == (0o4751, 1_600_000_000)
    assert status.st_ino == (copied / "data/sub/same").stat().st_ino
    assert os.readlink(copied / "data/link") == "/no/where"
    assert (copied / "data" / name).read_text() == "long"
    assert os.path.exists(os.fsencode(copied) + b"/data/\xff")


def test_a_link_in_the_tree_is_copied_and_not_followed(root: Path) -> None:
    (root / "data/out").symlink_to("../../../outside")
    (root / "data/file").unlink()
    (root / "data/file").symlink_to(root.parent / "outside/secret")
    assert entries(out(root, "/data/file"))["file"][0] == SYMLINK
    everything = entries(out(root, "/data"))
    assert everything["data/out"] == (SYMLINK, b"../../../outside")
    assert not any("secret" in name for name in everything)


def test_what_is_no_file_is_not_opened(root: Path) -> None:
    os.mkfifo(root / "data/pipe")
    found = entries(out(root, "/data"))
    assert found["data/pipe"][0] == tarfile.FIFOTYPE
    assert found["data/file"] == (FILE, b"hello")


def swapped_before_opening(monkeypatch: pytest.MonkeyPatch, swap: Callable[[], None]) -> None:
    """Does something to the tree between the look at a file and its opening."""
    real = tar_headers.header

    def header(*args: object, **options: object) -> bytes:
        swap()
        return real(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(copy_out, "header", header)


def test_a_file_that_shrinks_meanwhile_ends_the_copy(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped_before_opening(monkeypatch, lambda: os.truncate(root / "data/file", 2))
    with pytest.raises(OSError, match="has shrunk"):
        out(root, "/data/file")


def test_a_file_that_grows_is_cut_off(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swapped_before_opening(monkeypatch, lambda: os.truncate(root / "data/file", 1 << 40))
    assert entries(out(root, "/data/file")) == {"file": (FILE, b"hello")}


def test_a_huge_sparse_file_comes_in_pieces(root: Path) -> None:
    os.truncate(root / "data/file", 1 << 43)
    opened = ContainerRoot.of_directory(root)
    pieces = archive(opened, wanted("/data/file"))
    assert {len(next(pieces)) <= copy_out.PIECE + 2048 for _ in range(20)} == {True}
    pieces.close()  # type: ignore[attr-defined]
    opened.close()


def test_a_tree_that_is_too_deep_is_refused_and_no_descriptor_stays(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    directory = os.open(root / "data", os.O_RDONLY)
    for _ in range(DEPTH_MAX + 10):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    with pytest.raises(OSError, match="directories below each other") as refused:
        out(root, "/data")
    assert refused.value.errno == errno.ELOOP
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_comes_in_is_where_it_was_said(root: Path) -> None:
    into(root, tar_of(("new/a", FILE, b"1"), ("file", FILE, b"2"), ("l", SYMLINK, b"/x")))
    assert (root / "data/new/a").read_text() == "1"
    assert (root / "data/file").read_text() == "2"
    assert (root / "data/file").stat().st_mode & 0o777 == 0o640
    assert os.readlink(root / "data/l") == "/x"
    into(root, tar_of((".wh.file", FILE, b"plain")))
    assert (root / "data/.wh.file").read_text() == "plain"
    assert (root / "data/file").exists()


def test_links_of_the_tree_lead_within_it(root: Path) -> None:
    """An absolute link means the container's root, as for the container itself."""
    (root / "run").mkdir()
    (root / "outside").mkdir()
    (root / "data/run").symlink_to("/run")
    (root / "data/up").symlink_to("../../../outside")
    (root / "mnt").symlink_to("/data")
    into(root, tar_of(("run/pid", FILE, b"1")), "/mnt")
    assert (root / "run/pid").read_text() == "1"
    into(root, tar_of(("up/secret", FILE, b"overwritten")))
    assert (root.parent / "outside/secret").read_text() == "not yours"
    assert (root / "outside/secret").read_text() == "overwritten"


@pytest.mark.parametrize(
    "members",
    [
        [("../x", FILE, b"")],
        [("l", LINK, b"../../outside/secret")],
        [("l", SYMLINK, b"/outside"), ("l/../../../x", FILE, b"")],
    ],
)
def test_a_tar_that_leads_out_is_refused(
    root: Path, members: list[tuple[str, bytes, bytes]]
) -> None:
    with pytest.raises(InvalidArgument, match="cannot copy to the container"):
        into(root, tar_of(*members))
    assert sorted(os.listdir(root.parent)) == ["outside", "root"]


def test_directories_and_files_do_not_replace_each_other(root: Path) -> None:
    into(root, tar_of(("file", DIRECTORY, b"")))
    assert (root / "data/file").is_dir()
    into(root, tar_of(("file", FILE, b"again")))
    for name, kind in (("sub", FILE), ("file", DIRECTORY)):
        with pytest.raises(InvalidArgument, match="cannot overwrite"):
            into(root, tar_of((name, kind, b"")), keep_kinds=True)
    with pytest.raises(InvalidArgument, match="not empty"):
        into(root, tar_of(("sub", FILE, b"")))
    assert (root / "data/sub/other").exists()


def test_only_a_directory_takes_files(root: Path) -> None:
    with pytest.raises(InvalidArgument, match="extraction point is not a directory"):
        into(root, tar_of(("x", FILE, b"")), "/data/file")
    with pytest.raises(FileNotFoundError):
        into(root, tar_of(("x", FILE, b"")), "/nothing")
    with pytest.raises(InvalidArgument, match="cannot copy to the container"):
        into(root, b"no tar at all" * 100)
