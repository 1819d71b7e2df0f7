"""The log's forms: the journal's protocol at a socket that stands for the journal, JSON, and what
must never be in any of them."""

import json
import logging
import os
import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from weft.model.cluster import JoinTokens, RootCa, RootRotation
from weft.model.encryption import DataKey
from weft.model.membership import JoinRequest
from weft.pki.tokens import JoinToken
from weft.session.base import AdmissionRequest
from weft.session.identity import Credentials
from weft.system import journal as logs

SECRET = "c0ffee-not-to-be-seen"
ROOT = RootCa("certificate", SECRET)


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
    assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"], fields["CODE_FUNC"]) == (
        "4",
        "weft",
        "opened",
    )
    assert (fields["WEFT_NODE"], fields["WEFT_TRIES"], fields["WEFT_CAUSE"]) == (
        "n1",
        "3",
        "a\nPRIORITY=0",
    )


def test_values_never_become_keys() -> None:
    assert logs.event_fields(record("x a=%s", "1 b=2")) == {"a": "1 b=2"}
    assert logs.event_fields(record("x 100%% a=%s %s", "1", "2")) == {"a": "1"}
    assert logs.event_fields(record("x a=1")) == {}


def test_json() -> None:
    line = json.loads(logs.JsonFormatter().format(record("x.y node=%s", 'a"b')))
    assert (line["level"], line["message"], line["weft_node"]) == ("warning", 'x.y node=a"b', 'a"b')


def test_a_journal_that_is_gone_does_not_lose_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
            [
                sys.executable,
                "-c",
                "from weft.system import journal; print(journal.writes_to_journal())",
            ],
            stderr=stderr,
            stdout=subprocess.PIPE,
            env={**os.environ, "JOURNAL_STREAM": stream},
            text=True,
            check=True,
        )
    assert done.stdout == f"{same}\n"


@pytest.mark.parametrize(
    "value",
    [
        ROOT,
        RootRotation(ROOT, "cross-signed"),
        JoinTokens(SECRET, SECRET),
        JoinToken("digest", SECRET),
        DataKey(1, SECRET.encode()),
        Credentials("certificate", SECRET, "root"),
        JoinRequest(remote_addresses=("192.0.2.1:2377",), token=SECRET),
        AdmissionRequest(
            token=SECRET, csr="", hostname="n1", data_path_address=IPv4Address("192.0.2.1")
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_secrets_do_not_print_themselves(value: object) -> None:
    for text in (f"{value}", f"{value!r}", f"{[value]}", record("x value=%s", value).getMessage()):
        assert SECRET not in text
    assert SECRET.encode() not in logs.encode(logs.journal_fields(record("x value=%r", value)))
