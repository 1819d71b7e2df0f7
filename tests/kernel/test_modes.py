"""Who may read what a daemon leaves on a host, whatever the umask that it is started with: that of
a strict service manager (a unit's `UMask=0077`), or none. A container with a user of its own must
find its files; a user of the host must find nothing.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from weft.lab import lab
from weft.lab.layout import Host, Layout
from weft.lab.progress import Progress

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

QUIET = Progress(quiet=True)
IMAGE = "zaggash/demo-webapp"
ENTER = "import sys; from weft.lab import enter, processes; sys.exit(enter.run(processes.load(sys.argv[1]), sys.argv[2:], {'PATH': '/usr/bin:/bin:/sbin:/usr/sbin'}))"  # noqa: E501
REACHED = """
find "$@" -print0 | setpriv --reuid 65534 --regid 65534 --clear-groups xargs -0 sh -c '
    for path; do
        if [ -w "$path" ] || { [ ! -d "$path" ] && { [ -r "$path" ] || [ -x "$path" ]; }; }; then echo "$path"; fi
    done' sh
"""
"""What a user of the host can read, execute or write."""
OPEN_TO_WRITERS = """
find "$1" \\( -path '*/images/layers/*' -o -path '*/containers/*/upper' -o -path '*/containers/*/merged' \\) -prune \
    -o -not -type l -perm /0022 -print
find /run -not -type l -perm /0022 -print
"""
"""Leaving out what is an image's or a container's own."""
OF_SECRETS = 'find "$1/swarm" "$1/esp" -not -type l -perm /0077 -print'


@pytest.fixture(params=["0077", "0000"])
def layout(request: pytest.FixtureRequest) -> Iterator[Layout]:
    """Two managers, booted by a person with that umask and with daemons that are started with it.
    Every user of the machine may pass to their directories."""
    before = os.umask(int(request.param, 8))
    with tempfile.TemporaryDirectory(prefix="weft-modes-") as temporary:
        place = Path(temporary)
        made = Layout(
            name="wmode",
            subnet=IPv4Network("10.59.76.0/24"),
            run=place / "run/weft/lab",
            data=place / "data/weft/lab",
        )
        try:
            for directory in (place, place / "run", place / "data"):
                directory.mkdir(exist_ok=True)
                directory.chmod(0o755)
            daemon = (sys.executable, "-m", "weft", "daemon", "--data-root", str(made.state))
            started = ("sh", "-c", f'umask {request.param}; exec "$0" "$@"', *daemon)
            lab.up(made, 2, QUIET, managers=2, command=started)
            yield made
        finally:
            lab.down(made, QUIET)
            os.umask(before)


def on(host: Host, *command: str) -> str:
    argv = [sys.executable, "-c", ENTER, str(host.record), *command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def docker(host: Host, *command: str) -> str:
    return subprocess.run(
        ["docker", "-H", f"unix://{host.socket}", *command],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout


def test_containers_work_for_their_users_and_users_of_the_host_see_nothing(layout: Layout) -> None:
    node, other = layout.nodes(2)
    docker(node, "network", "create", "-d", "overlay", "--opt", "encrypted", "sealed")
    docker(node, "service", "create", "--name", "web", "--replicas", "2", "--user", "1000", "--workdir", "/work/here",
           "--mount", "type=tmpfs,target=/made/tmp", "--network", "sealed", IMAGE, "sleep", "1000")  # fmt: skip
    container = docker(node, "ps", "-q").strip()
    script = (
        "id -u; umask; pwd; stat -c '%a %n' / /etc /etc/hosts /etc/resolv.conf /etc/hostname"
        " /usr/sbin /work /work/here /made;getent hosts web >/dev/null && echo resolved"
    )
    assert docker(node, "exec", container, "sh", "-c", script).splitlines() == [
        "1000", "0022", "/work/here", "755 /", "755 /etc", "644 /etc/hosts", "644 /etc/resolv.conf", "644 /etc/hostname",
        "755 /usr/sbin", "755 /work", "755 /work/here", "755 /made", "resolved",
    ]  # fmt: skip

    state = str(layout.state)
    assert on(node, "sh", "-c", REACHED, "sh", "/etc/hostname") == "/etc/hostname\n", (
        "it would be seen"
    )
    for host in (node, other):
        assert on(host, "sh", "-c", REACHED, "sh", state, "/run/weft", "/run/docker.sock") == ""
        assert on(host, "sh", "-c", OPEN_TO_WRITERS, "sh", state) == ""
        assert on(host, "sh", "-c", OF_SECRETS, "sh", state) == ""
    program, *_ = (layout.data / "node1" / "images" / "layers").glob("*/bin/busybox")
    assert os.access(program, os.X_OK)
    with pytest.raises(PermissionError):
        subprocess.run([program, "id"], user=65534, group=65534, extra_groups=[], check=False)
