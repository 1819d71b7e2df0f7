"""The log's forms: the journal's protocol at a socket that stands for the journal, JSON, and what must never be in any of them."""

import json
import logging
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from weft import logs


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("weft.x", logging.WARNING, "/x/y.py", 7, message, args, None, "opened")


def decode(data: bytes) -> dict[str, str]:
    """As the protocol's description says."""
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        fields[name.decode()] = value.decode()
        data = rest
    return fields


def test_the_journal_gets_fields(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "socket"))
        journal.settimeout(10)
        handler = logs.JournalHandler(tmp_path / "socket")
        handler.handle(record("session.opened node=%s tries=%d cause=%s", "n1", 3, "a\nPRIORITY=0"))
        fields = decode(journal.recv(65536))
        handler.close()
    assert fields["MESSAGE"] == "session.opened node=n1 tries=3 cause=a\nPRIORITY=0"
    assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"], fields["CODE_FUNC"]) == ("4", "weft", "opened")
    assert (fields["WEFT_NODE"], fields["WEFT_TRIES"], fields["WEFT_CAUSE"]) == ("n1", "3", "a\nPRIORITY=0")


def test_values_never_become_keys() -> None:
    assert logs.event_fields(record("x a=%s", "1 b=2")) == {"a": "1 b=2"}
    assert logs.event_fields(record("x 100%% a=%s %s", "1", "2")) == {"a": "1"}
    assert logs.event_fields(record("x a=1")) == {}


def test_json() -> None:
    line = json.loads(logs.JsonFormatter().format(record("x.y node=%s", 'a"b')))
    assert (line["level"], line["message"], line["weft_node"]) == ("warning", 'x.y node=a"b', 'a"b')


def test_a_journal_that_is_gone_does_not_lose_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = logs.JournalHandler(tmp_path / "none")
    handler.handle(record("x node=%s", "n1"))
    handler.close()
    assert capsys.readouterr().err == "WARNING weft.x x node=n1\n"


@pytest.mark.parametrize("same", [True, False])
def test_the_journal_is_known_by_device_and_inode(tmp_path: Path, same: bool) -> None:
    with (tmp_path / "stderr").open("w") as stderr:
        status = os.fstat(stderr.fileno())
        stream = f"{status.st_dev}:{status.st_ino if same else status.st_ino + 1}"
        done = subprocess.run(
            [sys.executable, "-c", "from weft import logs; print(logs.writes_to_journal())"],
            stderr=stderr, stdout=subprocess.PIPE, env={**os.environ, "JOURNAL_STREAM": stream}, text=True, check=True,
        )  # fmt: skip
    assert done.stdout == f"{same}\n"
