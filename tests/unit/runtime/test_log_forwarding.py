"""Lines that are passed on to the journal and to syslog: real sockets, and a sink that fails."""

import asyncio
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.runtime.test_runtime_logs import written
from weft.errors import OperationFailed
from weft.model.container import Container, ContainerConfig, LogLine
from weft.model.ids import ContainerId
from weft.model.log_options import FilePolicy
from weft.model.service import ContainerSpec
from weft.model.syslog import syslog_target
from weft.runtime.box import Box
from weft.runtime.container_logs import ContainerLogs
from weft.runtime.log_files import LogFiles
from weft.runtime.log_forwarding import Forwarder
from weft.runtime.log_sinks import JournalSink, Sink, SyslogSink, field_name
from weft.runtime.record import Directory, Record

SECOND = 10**9
MOMENT = 1_767_225_600 * SECOND
"""The first second of 2026, UTC."""
HOST = "node1"


def container(driver: str, **options: str) -> Container:
    named = {name.replace("_", "-"): value for name, value in options.items()}
    config = ContainerConfig(
        id=ContainerId("0123456789ab" + "0" * 52), name="web.1.x", spec=ContainerSpec(image="app:1"),
        hostname="c", namespace=None, labels={"team-name": "blue", "priority": "9", "other": "x"},
        log_driver=driver, log_options=named,
    )  # fmt: skip
    return Container(config=config, image="sha256:" + "1" * 64, args=("run",), env=("LEVEL=a=b",))


def lines(*texts: str, stream: int = 1) -> list[LogLine]:
    return [LogLine(stream, MOMENT + n, f"{text}\n".encode()) for n, text in enumerate(texts)]


class Flaky:
    """A sink that takes lines, except where it is told to fail."""

    def __init__(self, fails: int = 0) -> None:
        self.taken: list[bytes] = []
        self.fails = fails
        self.is_closed = False

    async def send(self, line: LogLine) -> None:
        if self.fails:
            self.fails -= 1
            raise ConnectionRefusedError
        self.taken.append(line.data)

    def close(self) -> None:
        self.is_closed = True


async def forward(directory: Path, sink: Sink) -> None:
    """As for a container that has ended."""
    over = asyncio.Event()
    over.set()
    files = LogFiles(directory / "log", FilePolicy(max_file=2))
    forwarder = Forwarder(files, sink, over.wait, "c")
    await forwarder.finish()


def test_each_line_is_sent_once_whole_and_in_order_by_one_daemon_after_another(
    tmp_path: Path,
) -> None:
    log, (first, second, third) = tmp_path / "log", lines("one", "two", "three")
    log.write_bytes(written(first) + written(LogLine(1, MOMENT + 1, b"t")))
    before, after, last = Flaky(fails=2), Flaky(), Flaky()

    async def main() -> None:
        running = asyncio.Event()
        files = LogFiles(log, FilePolicy(max_file=2))
        forwarder = Forwarder(files, before, running.wait, "c")
        async with asyncio.timeout(10):
            while not before.taken:
                await asyncio.sleep(0)
        await forwarder.stop()
        with log.open("ab") as file:
            file.write(written(LogLine(1, MOMENT + 1, b"wo\n")) + written(third))
        await forward(tmp_path, after)
        await forward(tmp_path, last)

    asyncio.run(main())
    assert before.taken == [first.data]
    assert after.taken == [second.data, third.data]
    assert last.taken == []
    assert before.is_closed


def test_a_forwarder_takes_over_from_the_one_before(tmp_path: Path) -> None:
    """The container was started again while the sink of its first life took nothing."""
    log, said = tmp_path / "log", lines("one", "two")
    log.write_bytes(written(said[0]))
    dead, alive = Flaky(fails=10**9), Flaky()

    async def main() -> None:
        over = asyncio.Event()
        files = LogFiles(log, FilePolicy(max_file=2))
        first = Forwarder(files, dead, over.wait, "c")
        await asyncio.sleep(0)
        second = Forwarder(files, alive, over.wait, "c", first)
        with log.open("ab") as file:
            file.write(written(said[1]))
        over.set()
        await second.finish()

    asyncio.run(main())
    assert alive.taken == [line.data for line in said]


def test_the_journal_gets_dockers_fields(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (tmp_path / "log").write_bytes(
        written(LogLine(2, MOMENT + 5, b"bad=\xff\n"))
        + written(LogLine(1, MOMENT + 6, b"x" * 20_000 + b"\n"))
    )
    subject = container("journald", labels="team-name,priority", env_regex="^LEV", tag="{{.Name}}")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as journal:
        journal.bind(str(path))
        asyncio.run(forward(tmp_path, JournalSink(subject, HOST, path)))
        datagrams = [journal.recv(1 << 16) for _ in range(2)]
    fields = dict(line.split("=", 1) for line in datagrams[0].decode().splitlines())
    assert fields == {
        "MESSAGE": "bad=\ufffd", "PRIORITY": "3", "SYSLOG_TIMESTAMP": "2026-01-01T00:00:00.000000005Z",
        "CONTAINER_ID": "0123456789ab", "CONTAINER_ID_FULL": subject.id, "CONTAINER_NAME": "web.1.x",
        "CONTAINER_TAG": "web.1.x", "SYSLOG_IDENTIFIER": "web.1.x", "IMAGE_NAME": "app:1",
        "TEAM_NAME": "blue", "LEVEL": "a=b",
    }  # fmt: skip
    assert b"CONTAINER_PARTIAL_MESSAGE=true" in datagrams[1]
    assert b"PRIORITY=6\n" in datagrams[1]


@pytest.mark.parametrize(
    ("name", "field"), [("team.name", "TEAM_NAME"), ("__x", "X"), ("é", ""), ("A1_b", "A1_B")]
)
def test_names_become_fields_of_the_journal(name: str, field: str) -> None:
    assert field_name(name) == field


@pytest.mark.parametrize(
    ("kind", "address"),
    [("udp", "udp://127.0.0.1:{port}"), ("unixgram", "unixgram://{path}"), ("unix", "unix://{path}"),
     ("tcp", "tcp://127.0.0.1:{port}")],
)  # fmt: skip
def test_syslog_gets_each_line_as_a_message(tmp_path: Path, kind: str, address: str) -> None:
    family = socket.AF_UNIX if kind.startswith("unix") else socket.AF_INET
    is_stream = kind in ("tcp", "unix")
    (tmp_path / "log").write_bytes(b"".join(map(written, lines("one", "", "two", stream=2))))
    with closing(
        socket.socket(family, socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM)
    ) as server:
        server.settimeout(10)
        path = str(tmp_path / "syslog")
        server.bind(path if family == socket.AF_UNIX else ("127.0.0.1", 0))
        port = 0 if family == socket.AF_UNIX else server.getsockname()[1]
        if is_stream:
            server.listen()
        options = {
            "syslog-address": address.format(port=port, path=path),
            "syslog-facility": "local3",
            "syslog-format": "rfc5424micro",
        }
        sink = SyslogSink(syslog_target(options), container("syslog", **options), HOST)
        asyncio.run(forward(tmp_path, sink))
        if is_stream:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as received:
                messages = received.read().splitlines()
        else:
            messages = [server.recv(4096).rstrip(b"\n") for _ in range(2)]
    assert [message.rpartition(b" - ")[2] for message in messages] == [b"one", b"two"]
    assert messages[0].startswith(b"<155>1 20")
    assert b".000000" in messages[0]
    assert b" node1 0123456789ab " in messages[0]


def test_a_sink_that_never_answers_does_not_keep_a_container_from_being_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.runtime.log_forwarding._LAST_WORDS", 0.05)
    (tmp_path / "log").write_bytes(b"".join(map(written, lines("one"))))
    sink = Flaky(fails=10**9)
    asyncio.run(asyncio.wait_for(forward(tmp_path, sink), 10))
    assert sink.taken == []
    assert sink.is_closed


def test_a_containers_lines_are_passed_on_from_its_start_to_its_removal(tmp_path: Path) -> None:
    """As the runtime does it: the container begins, is attended to, ends and is removed."""
    path = tmp_path / "syslog"
    subject = container("syslog", syslog_address=f"unixgram://{path}", tag="{{.Name}}")
    directory = Directory(tmp_path)
    box = Box(directory, Record(container=subject, stop_signal="SIGTERM"))

    async def main() -> None:
        logs = ContainerLogs()
        logs.load("conmon 2.1.6")
        assert logs.conmon_begins(directory, subject.config) > 64 << 20
        directory.log.write_bytes(written(lines("one")[0]))
        logs.attend(box)
        await logs.close()
        logs.attend(box)
        with directory.log.open("ab") as file:
            file.write(written(lines("", "two")[1]))
        box.ended.set()
        await logs.leave(subject.id)
        await logs.forget(subject.id)
        await logs.close()

    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as server:
        server.settimeout(10)
        server.bind(str(path))
        asyncio.run(main())
        messages = [server.recv(4096) for _ in range(2)]
    assert [message.rpartition(b"]: ")[2] for message in messages] == [b"one\n", b"two\n"]
    assert b" web.1.x[" in messages[0]


def test_a_host_without_a_journal_makes_no_container_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weft.runtime.container_logs.JOURNAL", tmp_path / "journal")
    subject = container("journald")
    with pytest.raises(OperationFailed, match="journald is not enabled on this host"):
        ContainerLogs().conmon_begins(Directory(tmp_path), subject.config)
    (tmp_path / "journal").touch()
    assert ContainerLogs().conmon_begins(Directory(tmp_path), subject.config) > 64 << 20


@pytest.mark.parametrize("address", [f"udp://{'x' * 70}.example", "unixgram:///a\0b", "unix:///no"])
def test_an_address_that_cannot_be_used_makes_lines_wait(tmp_path: Path, address: str) -> None:
    """Whatever Python raises for it; the container's removal does not fail either."""
    options = {"syslog-address": address}
    sink = SyslogSink(syslog_target(options), container("syslog", **options), HOST)
    with pytest.raises(OSError, match="x|a|No such file"):
        asyncio.run(sink.send(lines("one")[0]))
