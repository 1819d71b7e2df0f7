"""The files of a log, with a conmon that behaves: both kinds of counting, both ways to begin a
file, and a daemon that looks when it likes, or is killed."""

import asyncio
import os
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.model.container import ContainerConfig
from weft.model.ids import ContainerId
from weft.model.log_options import FilePolicy, file_policy
from weft.model.service import ContainerSpec
from weft.runtime.container_logs import ContainerLogs
from weft.runtime.inotify import Watches
from weft.runtime.log_files import LogFiles
from weft.runtime.log_rotation import Rotation
from weft.runtime.logs import LogQuery, read_log
from weft.runtime.record import Directory

SLACK = 100_000
RECORD = 55
"""Bytes of a record; less than a thousandth of the slack, as with conmon."""


class Conmon:
    """Writes numbered lines as conmon does (src/ctr_logging.c)."""

    def __init__(self, path: Path, bound: int, counts_all: bool) -> None:
        self._path, self._bound, self._counts_all = path, bound, counts_all
        self._file = path.open("ab", buffering=0)
        self._counted = 0 if counts_all else path.stat().st_size
        ctl = path.parent / "ctl"
        ctl.unlink(missing_ok=True)
        os.mkfifo(ctl)
        self._ctl = os.open(ctl, os.O_RDONLY | os.O_NONBLOCK)

    def write(self, number: int) -> None:
        head = b"2026-01-01T00:00:00.%09d+00:00 stdout F " % number
        record = head + b"%09d\n" % number
        assert len(record) == RECORD
        if self._counted + len(record) > self._bound:
            self._counted = 0
            self._begin()
        self._file.write(record)
        self._counted += len(record)

    def obey(self) -> None:
        """Reads its control FIFO."""
        try:
            messages = os.read(self._ctl, 100)
        except BlockingIOError:
            return
        for _ in range(messages.count(b"2 0 0\n")):
            if not self._counts_all:
                self._counted = 0
            self._begin()

    def _begin(self) -> None:
        self._file.close()
        new = self._path.with_name("log.tmp")
        self._file = new.open("wb", buffering=0)
        new.replace(self._path)

    def close(self) -> None:
        self._file.close()
        os.close(self._ctl)


async def lines_of(files: LogFiles, tail: int | None = None) -> list[int]:
    reading = read_log(files, LogQuery(tail=tail), asyncio.Event().wait)
    return [int(line.data) async for line in reading]


def made(directory: Path, policy: FilePolicy, counts_all: bool) -> LogFiles:
    return LogFiles(directory / "log", policy, counts_all=counts_all, slack=SLACK)


def look(files: LogFiles, asked: set[int]) -> None:
    """What `Rotation` does at a look, without its clock."""
    segment = files.hold()
    if segment is not None and segment.number not in asked and files.is_due(segment):
        asked.add(segment.number)
        files.ask_for_new()
    for complete in files.to_compress():
        files.compress(complete)


Step = tuple[int, str, int]
STEPS: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(
        st.integers(0, SLACK // 2 // RECORD // 2),
        st.sampled_from(["look", "look", "look", "new daemon", "new conmon"]),
        st.integers(0, 400),
    ),
    max_size=40,
)
"""Lines written, what happens then, and lines written before conmon reads its FIFO."""


def simulate(files: LogFiles, steps: list[Step], counts_all: bool, at_end: ExitStack) -> int:
    """The number of lines written."""

    def begun() -> Conmon:
        return at_end.enter_context(closing(Conmon(files.path, files.bound, counts_all)))

    conmon, written, asked = begun(), 0, set[int]()
    for count, event, late in steps:
        for number in range(written, written + count):
            conmon.write(number)
        written += count
        if event == "new daemon":
            files = made(files.path.parent, files.policy, counts_all)
            asked = set()
        if event == "new conmon":
            conmon.obey()
            files.conmon_begins()
            conmon = begun()
        look(files, asked)
        for number in range(written, written + late):
            conmon.write(number)
        written += late
        conmon.obey()
        look(files, asked)
        conmon.obey()
    return written


@given(STEPS, st.booleans(), st.booleans(), st.integers(2, 4), st.sampled_from([1, 2000, 20_000]))
def test_the_newest_lines_are_kept_whole_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[Step],
    counts_all: bool,
    compress: bool,
    max_file: int,
    max_size: int,
) -> None:
    directory = tmp_path_factory.mktemp("log")
    files = made(directory, FilePolicy(max_size, max_file, compress), counts_all)
    with ExitStack() as at_end:
        written = simulate(files, steps, counts_all, at_end)
    kept = asyncio.run(lines_of(files))
    assert kept == list(range(written - len(kept), written))
    whole = (max_file - 1) * max_size // RECORD
    assert len(kept) >= min(written, whole)
    assert len(files.segments()) <= max_file
    assert asyncio.run(lines_of(files, tail=7)) == kept[-7:]
    on_disk = {path.stat().st_ino: path.stat().st_size for path in directory.glob("log*")}
    assert sum(on_disk.values()) <= (max_file + 1) * files.bound


@pytest.mark.parametrize("compress", [False, True])
def test_a_follower_reads_on_over_files_that_are_changed_and_compressed(
    tmp_path: Path, compress: bool
) -> None:
    """With the real watch and clock of the daemon: each line is there once, and in order."""
    files = made(tmp_path, FilePolicy(3000, 1000, compress), True)
    conmon, total = Conmon(files.path, files.bound, True), 3000
    over = asyncio.Event()

    async def write() -> None:
        for number in range(total):
            conmon.write(number)
            conmon.obey()
            if number % 10 == 0:
                await asyncio.sleep(0.0005)
        over.set()

    async def main() -> list[int]:
        watches = Watches()
        rotation = Rotation(files, watches, "c")
        writing = asyncio.create_task(write())
        reading = read_log(files, LogQuery(follow=True), over.wait)
        found = [int(line.data) async for line in reading]
        await writing
        await rotation.close()
        watches.close()
        return found

    assert asyncio.run(asyncio.wait_for(main(), 20)) == list(range(total))
    assert len(files.segments()) > 1
    assert asyncio.run(lines_of(files)) == list(range(total))
    conmon.close()


def test_a_daemon_killed_while_it_compresses_leaves_the_lines_once(tmp_path: Path) -> None:
    files = made(tmp_path, FilePolicy(1, 3, True), False)
    conmon = Conmon(files.path, files.bound, False)
    conmon.write(0)
    look(files, set())
    conmon.obey()
    conmon.write(1)
    files.hold()
    [complete] = files.to_compress()
    before = complete.path.read_bytes()
    files.compress(complete)
    complete.path.write_bytes(before)
    (tmp_path / "log.1.gz.tmp").write_bytes(b"half")
    assert asyncio.run(lines_of(files)) == [0, 1]
    conmon.close()


def test_without_a_conmon_nothing_is_asked(tmp_path: Path) -> None:
    files = made(tmp_path, FilePolicy(1, 2, False), True)
    assert not files.ask_for_new()
    os.mkfifo(tmp_path / "ctl")
    assert not files.ask_for_new()
    assert files.hold() is None
    assert files.segments() == []


@pytest.mark.parametrize(
    ("version", "bytes_counted"),
    [("conmon 2.1.6", -7), ("conmon 2.1.10", 0), ("conmon 2.2.1", 0), ("conmon 2.0.25", -7)],
)
def test_how_conmon_counts_is_known_by_its_version(
    tmp_path: Path, version: str, bytes_counted: int
) -> None:
    logs, directory = ContainerLogs(), Directory(tmp_path)
    logs.load(version)
    directory.log.write_bytes(b"written")
    config = ContainerConfig(
        id=ContainerId("c" * 64), name="c", spec=ContainerSpec(image="x"), hostname="c",
        namespace=None, log_driver="local", log_options={"max-size": "1m"},
    )  # fmt: skip
    assert logs.conmon_begins(directory, config) == 1_000_000 + (64 << 20)
    [segment] = logs.files(directory, config).segments()
    assert segment.counted == bytes_counted


@pytest.mark.parametrize("damage", ["cut", "other bytes", "no gzip"])
@pytest.mark.parametrize("tail", [None, 50])
def test_a_damaged_file_does_not_hide_the_others(
    tmp_path: Path, damage: str, tail: int | None
) -> None:
    files, asked = made(tmp_path, FilePolicy(2000, 9, True), False), set[int]()
    with closing(Conmon(files.path, files.bound, False)) as conmon:
        for number in range(120):
            conmon.write(number)
            look(files, asked)
            conmon.obey()
    first, second, *_ = files.segments()
    content = second.path.read_bytes()
    middle = len(content) // 2
    second.path.write_bytes({
        "cut": content[:middle], "no gzip": b"text",
        "other bytes": content[:middle] + b"\xff" * 20 + content[middle + 20 :],
    }[damage])  # fmt: skip
    with first.open() as file:
        before = len(file.readlines())
    kept = asyncio.run(lines_of(files, tail))
    assert kept == sorted(set(kept))
    assert kept[-1] == 119
    if tail is None:
        assert kept[:before] == list(range(before))
        assert kept[-30:] == list(range(90, 120))


def test_no_size_is_too_large_for_conmon(tmp_path: Path) -> None:
    policy = file_policy("json-file", {"max-size": "9000p", "max-file": "2"})
    assert policy.max_size == 9 * 10**18
    assert LogFiles(tmp_path / "log", policy).bound < 2**63
