"""The daemon's end of systemd's two protocols, against a socket that stands for systemd."""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.activated import FOR_THE_PROGRAM, run_with
from weft.system.service_manager import READY, ServiceManager

REPORT = """
import os
from weft.system.service_manager import ServiceManager
given = ServiceManager().listeners()
print([listener.getsockname() for listener in given], [os.get_inheritable(l.fileno()) for l in given],
      [l.getblocking() for l in given], [name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_"))])
"""


def started(listening: socket.socket, **variables: str) -> str:
    """What a program says that was started with a socket as descriptor 3, as systemd does it."""
    return run_with(listening, [sys.executable, "-c", REPORT], variables).stdout.strip()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
        listener.listen()
        yield listener


def test_takes_the_sockets_that_are_for_this_process_and_passes_nothing_on(
    listening: socket.socket,
) -> None:
    mine = {**FOR_THE_PROGRAM, "LISTEN_FDNAMES": "weft.socket", "NOTIFY_SOCKET": "/none"}
    assert started(listening, **mine) == f"[{listening.getsockname()!r}] [False] [False] []"


@pytest.mark.parametrize(
    "variables",
    [
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "$$", "LISTEN_FDS": "x"},
        {},
    ],
)
def test_takes_nothing_that_is_for_another_process(
    listening: socket.socket, variables: dict[str, str]
) -> None:
    assert started(listening, **variables) == "[] [] [] []"


@pytest.mark.parametrize("abstract", [False, True])
def test_tells_the_manager(tmp_path: Path, abstract: bool) -> None:
    name = f"\0weft-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name)
        ServiceManager({"NOTIFY_SOCKET": name.replace("\0", "@")}).notify(READY)
        systemd.setblocking(False)
        assert systemd.recv(100) == b"READY=1"


def test_a_manager_that_does_not_hear_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "none")}).notify(READY)
    assert "service_manager.not_told state=READY=1 cause=No such file" in caplog.text
    caplog.clear()
    ServiceManager({}).notify(READY)
    assert not caplog.text
