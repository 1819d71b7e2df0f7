"""A client that waited for a daemon which cannot start."""

import socket
import sys
from pathlib import Path

import pytest

from tests.support.activated import run_with
from weft.api.turning_away import turn_away

CLIENTS = [b"GET /v1.51/version HTTP/1.1\r\nHost: d\r\n\r\n", b"HEAD /_ping HTTP/1.1\r\nHost: d\r\n\r\n"]  # fmt: skip


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def waiting(path: Path, request: bytes) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(path))
    client.sendall(request)
    return client


def read(client: socket.socket) -> tuple[bytes, bytes]:
    with client:
        said = b""
        while part := client.recv(4096):
            said += part
    head, _, body = said.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body


def test_every_waiting_client_is_told_why(tmp_path: Path) -> None:
    with listen(tmp_path / "s") as listener:
        listener.setblocking(False)
        clients = [waiting(tmp_path / "s", request) for request in CLIENTS]
        clients.append(silent := socket.socket(socket.AF_UNIX))
        silent.settimeout(20)
        silent.connect(str(tmp_path / "s"))
        assert turn_away([listener], "cannot start: no") == 3
        asked, pinged, said_nothing = map(read, clients)
        assert asked == (
            b"HTTP/1.1 503 Service Unavailable",
            b'{"message":"cannot start: no"}',
        )
        assert pinged == (b"HTTP/1.1 503 Service Unavailable", b"")
        assert said_nothing == (b"", b"")
        assert turn_away([listener], "again") == 0


@pytest.mark.parametrize("key", ["color", "socket"])
def test_a_daemon_with_a_wrong_configuration_ends_for_good_and_says_so(
    tmp_path: Path, key: str
) -> None:
    """As the service manager sees it: the status after which it does not try again."""
    config = tmp_path / "config.toml"
    config.write_text(f"{key} = 1\n")
    daemon = [sys.executable, "-m", "weft", "daemon", "--config", str(config)]
    with listen(tmp_path / "s") as listener:
        client = waiting(tmp_path / "s", CLIENTS[0])
        ended = run_with(listener, daemon)
        assert ended.returncode == 78
        assert key in ended.stderr
        assert key.encode() in read(client)[1]
