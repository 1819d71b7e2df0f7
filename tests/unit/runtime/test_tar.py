"""Reading tars: against those that Python and GNU tar write."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.runtime.malformed import Malformed
from weft.runtime.tar import Entry, Kind, Reader

NAMES = st.lists(
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=90).filter(
        lambda part: part not in (".", "..")
    ),
    min_size=1,
    max_size=4,
).map("/".join)
KINDS = {
    tarfile.REGTYPE: Kind.FILE, tarfile.DIRTYPE: Kind.DIRECTORY, tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARD_LINK, tarfile.FIFOTYPE: Kind.FIFO,
    tarfile.CHRTYPE: Kind.CHARACTER_DEVICE, tarfile.BLKTYPE: Kind.BLOCK_DEVICE,
}  # fmt: skip


@st.composite
def members(draw: st.DrawFn) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(draw(NAMES))
    info.type = draw(st.sampled_from(list(KINDS)))
    info.mode = draw(st.integers(0, 0o7777))
    info.uid, info.gid = draw(st.integers(0, 2**32 - 2)), draw(st.integers(0, 2**32 - 2))
    info.mtime = draw(st.integers(0, 2**33))
    if info.issym() or info.islnk():
        info.linkname = draw(NAMES)
    if info.ischr() or info.isblk():
        info.devmajor, info.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 2**20 - 1))
    content = draw(st.binary(max_size=1500)) if info.isreg() else b""
    info.size = len(content)
    return info, content


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    reader = Reader(io.BytesIO(data))
    return [(entry, content(reader)) for entry in reader.entries()]


def content(reader: Reader) -> bytes:
    return b"".join(iter(lambda: reader.read(700), b""))


@given(st.lists(members(), max_size=5), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_what_python_writes_is_read(
    written: list[tuple[tarfile.TarInfo, bytes]], form: int
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, data in written:
            tar.addfile(info, io.BytesIO(data))
    found = read(buffer.getvalue())
    assert len(found) == len(written)
    for (entry, data), (info, expected) in zip(found, written, strict=True):
        assert entry.name.rstrip(b"/") == info.name.rstrip("/").encode()
        assert (entry.kind, entry.target) == (KINDS[info.type], info.linkname.encode())
        assert (entry.mode, entry.uid, entry.gid) == (info.mode, info.uid, info.gid)
        assert (entry.mtime, data) == (info.mtime * 10**9, expected)
        assert entry.device == (info.devmajor, info.devminor)
        offset = entry.offset
        assert buffer.getvalue()[offset : offset + entry.size] == expected


def test_a_long_name_of_posix_has_a_prefix() -> None:
    buffer = io.BytesIO()
    name = "/".join(["directory" * 3] * 6 + ["file"])
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(name))
    assert [entry.name.decode() for entry, _ in read(buffer.getvalue())] == [name]


@pytest.mark.parametrize(
    "options",
    [["-H", "gnu"], *(["-H", "posix", f"--sparse-version={n}"] for n in ("0.0", "0.1", "1.0"))],
)
def test_sparse_files_of_gnu_tar_are_read(tmp_path: Path, options: list[str]) -> None:
    places = [(0, b"begin"), (1 << 20, b"m" * 5000), *((n << 16, b"x") for n in range(20, 60))]
    with (tmp_path / "sparse").open("wb") as file:
        for offset, data in places:
            file.seek(offset)
            file.write(data)
        file.truncate(5 << 20)
    (tmp_path / "after").write_bytes(b"after")
    command = ["tar", "-C", str(tmp_path), "--sparse", *options, "-cf", "-", "sparse", "after"]
    data = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    (sparse, stored), (after, _) = read(data)
    assert (sparse.name, after.name) == (b"sparse", b"after")
    assert sparse.segments is not None
    whole = bytearray(sparse.segments.size)
    for offset, length in sparse.segments.places:
        whole[offset : offset + length], stored = stored[:length], stored[length:]
    assert whole == (tmp_path / "sparse").read_bytes()
    assert len(data) < 1 << 20


def test_a_tar_that_is_cut_short_is_refused_wherever_it_is_cut() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a" * 150, "b"):
            info = tarfile.TarInfo(name)
            info.size = 600
            tar.addfile(info, io.BytesIO(b"x" * 600))
    data, whole = buffer.getvalue(), 0
    ends = [entry.offset + 1024 for entry, _ in read(data)]
    for length in range(0, ends[-1] + 1, 16):
        try:
            read(data[:length])
            whole += 1
        except Malformed:
            assert length not in (0, *ends)
    assert whole == 3, "nothing, one entry, two entries"


@given(st.binary(max_size=2000))
def test_garbage_is_refused(data: bytes) -> None:
    if data[:512].strip(b"\0"):
        with pytest.raises(Malformed):
            read(data)


@given(st.integers(0, 511).filter(lambda place: not 148 <= place < 156), st.integers(1, 127))
def test_a_damaged_header_is_refused(place: int, damage: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("name"))
    data = bytearray(buffer.getvalue())
    data[place] ^= damage
    with pytest.raises(Malformed, match="checksum"):
        read(bytes(data))
