"""A client that waited for a daemon which cannot start."""

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
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
        clients.append(gone := waiting(tmp_path / "s", b""))
        gone.shutdown(socket.SHUT_WR)
        assert turn_away([listener], "cannot start: no") == 3
        asked, pinged, said_nothing = map(read, clients)
        assert asked == (
            b"HTTP/1.1 503 Service Unavailable",
            b'{"message":"cannot start: no"}',
        )
        assert pinged == (b"HTTP/1.1 503 Service Unavailable", b"")
        assert said_nothing[1] == b'{"message":"cannot start: no"}'
        assert turn_away([listener], "again") == 0


def test_a_client_that_asks_again_is_answered_again(tmp_path: Path) -> None:
    """As the docker command does; otherwise its next question would start another daemon."""
    with listen(tmp_path / "s") as listener:
        listener.setblocking(False)
        first = waiting(tmp_path / "s", CLIENTS[1])

        def command() -> list[bytes]:
            answers = [read(first)[0]]
            answers += [read(waiting(tmp_path / "s", request))[0] for request in CLIENTS]
            return answers

        with ThreadPoolExecutor(1) as other:
            asking = other.submit(command)
            assert turn_away([listener], "no") == 3
            assert asking.result() == [b"HTTP/1.1 503 Service Unavailable"] * 3


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
