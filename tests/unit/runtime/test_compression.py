"""Compressed streams: every format, in members, whole or cut short."""

import bz2
import gzip
import io
import lzma
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from weft.runtime.compression import CHUNK, decompressed
from weft.runtime.malformed import Malformed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FORMATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd.compress,
}  # fmt: skip
each_format = pytest.mark.parametrize("name", list(FORMATS))


def expand(data: bytes, size: int = 1000) -> bytes:
    source = decompressed(io.BytesIO(data))
    return b"".join(iter(lambda: source.read(size), b""))


def test_what_is_not_compressed_is_read_as_it_is() -> None:
    assert expand(b"BZ" + b"plain" * 100) == b"BZ" + b"plain" * 100
    assert expand(b"") == b""


@each_format
@pytest.mark.parametrize("length", [0, 1, 511, CHUNK, 3 * CHUNK + 7])
def test_members_follow_each_other(name: str, length: int) -> None:
    content = bytes(number * number % 251 for number in range(length))
    member = FORMATS[name](content)
    assert expand(member) == content
    assert expand(member * 3) == content * 3
    assert expand(member + b"\0" * 600_000 + member + b"\0" * 4) == content * 2


@each_format
def test_a_stream_that_ends_in_the_middle_is_refused(name: str) -> None:
    data = FORMATS[name](b"content" * 100)
    for length in range(6, len(data)):
        with pytest.raises(Malformed, match=f"its {name} data (ends in the middle|is damaged)"):
            expand(data[:length])


@each_format
def test_garbage_after_a_member_is_refused(name: str) -> None:
    with pytest.raises(Malformed, match=f"its {name} data is damaged"):
        expand(FORMATS[name](b"content") + b"garbage, and more than six bytes of it")


@each_format
def test_a_little_is_expanded_at_a_time(name: str) -> None:
    """Ten megabytes of zeros: the reader decides how much of them there ever is."""
    stream = io.BytesIO(FORMATS[name](bytes(10 << 20)) * 1000)
    source = decompressed(stream)
    assert sum(len(source.read(1 << 30)) for _ in range(4)) <= 4 * CHUNK
    assert stream.tell() <= 4 * CHUNK


def test_frames_of_zstd_without_content_are_passed_over() -> None:
    skipped = struct.pack("<II", 0x184D2A57, 5) + b"table"
    assert expand(skipped + zstd.compress(b"content") + skipped) == b"content"


def test_what_the_zstd_command_writes_is_read() -> None:
    content = bytes(range(256)) * 5000
    for options in ([], ["-19"], ["--long=27", "-T2"], ["--check"]):
        command = ["zstd", "-q", "-c", *options]
        data = subprocess.run(command, input=content, check=True, stdout=subprocess.PIPE).stdout
        assert expand(data) == content


def test_a_decoder_that_wants_too_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    data = lzma.compress(b"content", filters=filters)
    with pytest.raises(Malformed, match="Memory usage limit"):
        expand(data)
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 28}
    compressor = zstd.ZstdCompressor(options=options)
    data = compressor.compress(bytes(1000)) + compressor.flush()
    with pytest.raises(Malformed, match="its zstd data is damaged"):
        expand(data)
