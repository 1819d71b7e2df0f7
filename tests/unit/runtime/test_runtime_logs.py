"""conmon's log, read back: what was written comes out, in order, whatever is in it."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.model.container import LogLine
from weft.model.log_options import FilePolicy
from weft.runtime.log_files import LogFiles
from weft.runtime.logs import LogQuery, parse_line, parse_timestamp, read_log


def written(line: LogLine) -> bytes:
    """As conmon writes it."""
    seconds, nanoseconds = divmod(line.timestamp, 10**9)
    moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    flag = b"F" if line.data.endswith(b"\n") else b"P"
    stream = b"stdout" if line.stream == 1 else b"stderr"
    return (
        f"{moment}.{nanoseconds:09}+00:00 ".encode()
        + stream
        + b" "
        + flag
        + b" "
        + line.data.removesuffix(b"\n")
        + b"\n"
    )


def read(path: Path, query: LogQuery, ended: asyncio.Event | None = None) -> list[LogLine]:
    async def collect() -> list[LogLine]:
        over = ended or asyncio.Event()
        over.set()
        return [line async for line in read_log(LogFiles(path, FilePolicy()), query, over.wait)]

    return asyncio.run(collect())


LINES = st.builds(
    LogLine,
    st.sampled_from([1, 2]),
    st.integers(0, 4 * 10**18),
    st.tuples(
        st.binary().map(lambda data: data.replace(b"\n", b"")), st.sampled_from([b"", b"\n"])
    ).map(b"".join),
)


@given(LINES)
def test_a_line_comes_back_as_it_was_written(line: LogLine) -> None:
    assert parse_line(written(line)) == line


@given(st.binary())
def test_anything_else_is_no_line(data: bytes) -> None:
    assert parse_line(data) is None or data.count(b" ") >= 3


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("1970-01-01T00:00:02+00:00", 2_000_000_000),
        ("1970-01-01T00:00:02Z", 2_000_000_000),
    ],
)
def test_time_stamps_have_nine_digits_or_fewer(text: str, nanoseconds: int) -> None:
    assert parse_timestamp(text) == nanoseconds


def in_lines(pieces: list[LogLine]) -> list[list[LogLine]]:
    """The lines that pieces make, each in the order of its beginning."""
    lines: list[list[LogLine]] = []
    for piece in pieces:
        own = [line for line in lines if line[0].stream == piece.stream]
        if own and not own[-1][-1].data.endswith(b"\n"):
            own[-1].append(piece)
        else:
            lines.append([piece])
    return lines


@given(
    st.lists(LINES, max_size=20),
    st.none() | st.integers(0, 5),
    st.integers(0, 4 * 10**18),
    st.integers(0, 4 * 10**18),
)
def test_a_query_takes_a_span_of_time_and_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[LogLine],
    tail: int | None,
    since: int,
    until: int,
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    path.write_bytes(b"".join(map(written, lines)))
    wanted = [
        line for line in lines if line.timestamp >= since and (not until or line.timestamp <= until)
    ]
    whole = in_lines(wanted)
    shown = (
        {id(piece) for line in whole[max(0, len(whole) - tail) :] for piece in line}
        if tail is not None
        else set()
    )
    expected = [line for line in wanted if tail is None or id(line) in shown]
    assert read(path, LogQuery(since=since, until=until, tail=tail)) == expected


def long_log(path: Path) -> list[LogLine]:
    """Ten times what is read at once, with lines of many sizes; those on stdout are in pieces, with
    lines on stderr between them."""

    def line(number: int) -> LogLine:
        is_error = number % 7 == 0
        end = b"\n" if is_error or number % 5 else b""
        return LogLine(
            2 if is_error else 1, number, b"%d " % number + b"x" * (number * 37 % 400) + end
        )

    lines = [line(number) for number in range(1, 4000)]
    path.write_bytes(b"".join(map(written, lines)))
    assert path.stat().st_size > 10 * 65536
    return lines


@pytest.mark.parametrize("tail", [0, 1, 2, 10, 300, 3000, 5000])
def test_the_last_lines_of_a_long_log_are_found_from_its_end(tmp_path: Path, tail: int) -> None:
    path = tmp_path / "log"
    lines = long_log(path)
    whole = in_lines(lines)
    shown = {id(piece) for line in whole[max(0, len(whole) - tail) :] for piece in line}
    assert read(path, LogQuery(tail=tail)) == [line for line in lines if id(line) in shown]


@pytest.mark.parametrize(
    "query", [LogQuery(tail=1, since=1), LogQuery(since=4000), LogQuery(tail=2000)], ids=repr
)
def test_a_long_log_stops_nobody_else(tmp_path: Path, query: LogQuery) -> None:
    """Also while nothing is found that is wanted."""
    path = tmp_path / "log"
    long_log(path)

    async def main() -> int:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        working = asyncio.create_task(others())
        async for _ in read_log(LogFiles(path, FilePolicy()), query, asyncio.Event().wait):
            pass
        working.cancel()
        return turns

    assert asyncio.run(main()) >= 19


def test_a_follower_sees_what_comes_and_a_log_started_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    first, second, third = (LogLine(1, number, f"line {number}\n".encode()) for number in (1, 2, 3))
    path.write_bytes(written(first))

    async def follow() -> list[LogLine]:
        ended = asyncio.Event()
        seen = []
        async for line in read_log(LogFiles(path, FilePolicy()), LogQuery(follow=True), ended.wait):
            seen.append(line)
            if line == first:
                with path.open("ab") as file:
                    file.write(written(second)[:10])
                    file.flush()
                    file.write(written(second)[10:])
            if line == second:
                (tmp_path / "new").write_bytes(written(third))
                (tmp_path / "new").replace(path)
            if line == third:
                ended.set()
        return seen

    assert asyncio.run(asyncio.wait_for(follow(), 10)) == [first, second, third]


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert read(tmp_path / "absent", LogQuery()) == []
