"""`weft top` against a whole node, once and on a terminal: what is shown, what keys do, and that the
terminal is as it was, however it ends. The node's kernel is a fake, which counts nothing."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conformance.client import Daemon
from tests.support.fake_images import IMAGE

WORDS = [sys.executable, "-m", "weft", "top"]
LEAVES = b"\x1b[?1049l"


def environment(daemon: Daemon) -> dict[str, str]:
    return dict(os.environ, DOCKER_HOST=f"unix://{daemon.path}")


def top(daemon: Daemon, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*WORDS, *options], capture_output=True, text=True, env=environment(daemon), check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_once(manager: Daemon) -> None:
    manager.ok("network", "create", "-d", "overlay", "mynet")
    manager.ok(
        "service", "create", "-q", "--name", "web", "--network", "mynet", IMAGE, "sleep", "9"
    )
    shown = top(manager, "--once", "--sort", "name")
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0] == "weft top: 1 nodes, services by name"
    assert [line.split()[0] for line in lines if line] == [
        "weft",
        "NODE",
        "node1",
        "node1:",  # it has no underlay
        "SERVICE",
        "web",
    ]
    found = json.loads(top(manager, "--once", "--json", "--tasks", "--filter", "we").stdout)
    assert [each["Name"] for each in found["Tasks"]] == ["web.1"]
    assert list(found["Nodes"][0]["Networks"]) == ["ingress", "mynet"]
    assert json.loads(top(manager, "--once", "--json", "--filter", "x").stdout)["Services"] == []


def test_what_cannot_be_shown_is_refused(manager: Daemon, worker: Daemon) -> None:
    assert "there is no terminal: use --once" in top(manager).stderr
    assert "--json needs --once" in top(manager, "--json").stderr
    assert "'nonsense' is not one of" in top(manager, "--sort", "nonsense").stderr
    assert "61" in top(manager, "--every", "61").stderr
    assert "This node is not a swarm manager" in top(worker, "--once").stderr


class Terminal:
    """A terminal with `weft top` on it."""

    def __init__(self, process: "subprocess.Popen[bytes]", master: int) -> None:
        self.process = process
        self._master = master
        self.output = b""

    def until(self, text: bytes) -> None:
        """What was shown since the last call, up to the text."""
        deadline = time.monotonic() + 60
        while text not in self.output:
            ready, _, _ = select.select([self._master], [], [], deadline - time.monotonic())
            assert ready, self.output[-2000:]
            self.output += os.read(self._master, 1 << 16)
        self.output = self.output.partition(text)[2]

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextmanager
def terminal(daemon: Daemon) -> Iterator[Terminal]:
    """The terminal's settings are the same before and after."""
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        before = termios.tcgetattr(slave)
        process = subprocess.Popen(
            WORDS, stdin=slave, stdout=slave, stderr=slave, env=environment(daemon),
            start_new_session=True,
        )  # fmt: skip
        try:
            yield Terminal(process, master)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_keys_and_the_size_of_the_terminal(manager: Daemon) -> None:
    with terminal(manager) as shown:
        shown.until(b"services by bytes")
        shown.press("s")
        shown.until(b"services by name")
        shown.press("t")
        shown.until(b"tasks by name")
        shown.press("/node\x7fe\r")
        shown.until(b"filter 'node'")
        shown.resize(24, 12)
        shown.until(b"\x1b[Hweft top: 1 \x1b[K")
        shown.press("q")
        shown.until(LEAVES)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_and_leave_the_terminal_as_it_was(
    manager: Daemon, number: signal.Signals
) -> None:
    with terminal(manager) as shown:
        shown.until(b"weft top: 1 nodes")
        shown.process.send_signal(number)
        shown.until(LEAVES)
