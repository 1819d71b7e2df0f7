"""`docker exec` and `docker attach`: streams over a real server on a UNIX socket, behind it a
whole node. Both event loops that the daemon may run on are tried."""

import hashlib
import os
import pty
import select
import shutil
import struct
import subprocess
import termios
import time
from fcntl import ioctl

import docker
import pytest

from tests.conformance.client import Daemon
from tests.support.api_daemon import DEADLINE
from tests.support.fake_images import IMAGE

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")


def test_exec_separates_streams_and_gives_the_exit_code(any_daemon: Daemon) -> None:
    any_daemon.ok("swarm", "init")
    id = any_daemon.container()
    done = any_daemon.run(
        "exec", "-e", "A=b", "-w", "/tmp", id, "sh", "-c", "echo $A $PWD; echo err >&2; exit 7"
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"b /tmp\n", b"err\n", 7)
    done = any_daemon.run("exec", id, "no-such-command")
    assert done.returncode == 127
    assert b"executable file not found" in done.stdout
    any_daemon.ok("exec", "-d", id, "true")


@pytest.mark.parametrize("privileged", [False, True])
def test_an_inspected_exec_says_whether_it_is_privileged(
    any_daemon: Daemon, privileged: bool
) -> None:
    any_daemon.ok("swarm", "init")
    client = docker.APIClient(base_url=f"unix://{any_daemon.path}", version="auto")
    exec = client.exec_create(any_daemon.container(), ["true"], privileged=privileged)
    assert client.exec_inspect(exec["Id"])["ProcessConfig"]["privileged"] is privileged
    client.close()


def test_exec_carries_20_megabytes_and_the_end_of_input(any_daemon: Daemon) -> None:
    any_daemon.ok("swarm", "init")
    id = any_daemon.container()
    data = os.urandom(20_000_000)
    assert (
        any_daemon.ok("exec", "-i", id, "sha256sum", stdin=data).split()[0]
        == hashlib.sha256(data).hexdigest()
    )
    done = any_daemon.run("exec", "-i", id, "sh", "-c", "cat; exit 3", stdin=data)
    assert done.returncode == 3
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_exec_on_a_terminal(any_daemon: Daemon) -> None:
    any_daemon.ok("swarm", "init")
    id = any_daemon.container()
    script = (
        "while [ \"$(stty size)\" != '33 111' ]; do sleep 0.05; done; stty size; read line; echo"
        " got $line; exit 9"
    )
    output, code = on_terminal(
        any_daemon.command("exec", "-it", id, "sh", "-c", script),
        rows=33,
        columns=111,
        answer=b"word\n",
    )
    assert b"33 111" in output
    assert b"got word" in output
    assert code == 9


def test_attach_carries_both_directions(any_daemon: Daemon) -> None:
    any_daemon.ok("swarm", "init")
    create = {
        "image": IMAGE,
        "command": ["sh", "-c", "read line; echo got $line; exit 4"],
        "open_stdin": True,
        "name": "web",
    }
    client = docker.DockerClient(base_url=f"unix://{any_daemon.path}", version="auto")
    try:
        client.services.create(**create, restart_policy={"Condition": "none"})
    finally:
        client.close()
    any_daemon.settled("web")
    id = any_daemon.ok("ps", "-q").strip()
    done = any_daemon.run("attach", id, stdin=b"word\n")
    assert done.stdout == b"got word\n"
    assert done.returncode == 4


def on_terminal(command: list[str], rows: int, columns: int, answer: bytes) -> tuple[bytes, int]:
    """Runs a command on a terminal of that size; says `answer` once the size was printed. Gives its
    output and exit code."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        output, asked = b"", False
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    data = os.read(ours, 65536)
                except OSError:
                    break
                output += data
            elif process.poll() is not None:
                break
            if not asked and b"%d %d" % (rows, columns) in output:
                asked = True
                os.write(ours, answer)
        os.close(ours)
        return output, process.wait(DEADLINE)
