"""The lab's hosts on the real kernel, in a lab of its own name, subnet and directories: boot,
enter, crash, heal, leave nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from weft.errors import Conflict, OperationFailed
from weft.lab import cgroups, daemons, enter, hosts, lab, processes, underlay
from weft.lab.layout import Layout
from weft.lab.progress import Progress

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

QUIET = Progress(quiet=True)
FAKE_DAEMON = ("sh", "-c", "echo started; exec sleep 1000")
INTERRUPTED = f"""
import signal, sys
from ipaddress import IPv4Network
from pathlib import Path
from weft.lab import lab
from weft.lab.layout import Layout
from weft.lab.progress import Progress
signal.signal(signal.SIGINT, signal.default_int_handler)
layout = Layout(name=sys.argv[1], subnet=IPv4Network("10.59.73.0/24"), run=Path(sys.argv[2]), data=Path(sys.argv[3]))
try:
    lab.up(layout, 2, Progress(quiet=True), image=False, command={FAKE_DAEMON!r})
except KeyboardInterrupt:
    sys.exit(0)
sys.exit("it was not interrupted")
"""
ENTER = "import sys; from weft.lab import enter, processes; sys.exit(enter.run(processes.load(sys.argv[1]), sys.argv[2:], {'PATH': '/usr/bin:/bin:/sbin:/usr/sbin'}))"  # noqa: E501


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    made = Layout(
        name="wlabt",
        subnet=IPv4Network("10.59.73.0/24"),
        run=tmp_path / "run/weft/lab",
        data=tmp_path / "data/weft/lab",
    )
    for directory in (made.run, made.data):
        directory.parents[1].mkdir()
    yield made
    lab.down(made, QUIET)
    assert traces(made) == []


def traces(layout: Layout) -> list[str]:
    """What of the lab is left on the machine."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
    found = [link["ifname"] for link in links if link["ifname"].startswith(layout.name)]
    found += [
        str(h.path / layout.cgroup)
        for h in cgroups.hierarchies()
        if (h.path / layout.cgroup).exists()
    ]
    found += [
        line
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if str(layout.run.parents[2]) in line
    ]
    return found + [str(path) for path in (layout.run.parent, layout.data.parent) if path.exists()]


def on(layout: Layout, number: int, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ENTER, layout.node(number).record, *command],
        capture_output=True,
        text=True,
        check=False,
    )


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_hosts_reach_each_other_and_nothing_else(layout: Layout) -> None:
    lab.boot(layout, layout.nodes(2))
    assert on(layout, 1, "hostname").stdout == "node1\n"
    assert on(layout, 1, "ping", "-c", "1", "-W", "2", "node2").returncode == 0
    assert on(layout, 1, "ip", "route", "show", "default").stdout == ""
    addresses = json.loads(on(layout, 2, "ip", "-j", "-4", "address", "show", "ens160").stdout)
    assert [a["local"] for a in addresses[0]["addr_info"]] == ["10.59.73.12"]


def test_a_host_that_has_rebooted_is_found_where_it_was(layout: Layout) -> None:
    """By whoever remembers its MAC."""
    lab.boot(layout, layout.nodes(2))
    assert on(layout, 1, "ping", "-c", "1", "-W", "2", "node2").returncode == 0
    (known,) = json.loads(on(layout, 1, "ip", "-j", "neigh", "show", "10.59.73.12").stdout)
    on(
        layout,
        1,
        "ip",
        "neigh",
        "replace",
        "10.59.73.12",
        "lladdr",
        known["lladdr"],
        "dev",
        "ens160",
        "nud",
        "permanent",
    )
    lab.halt(layout, layout.node(2))
    lab.boot(layout, layout.nodes(2))
    assert on(layout, 1, "ping", "-c", "1", "-W", "2", "node2").returncode == 0


def test_a_host_sees_only_its_own_processes_and_files(layout: Layout) -> None:
    lab.boot(layout, layout.nodes(1))
    assert on(layout, 1, "ps", "-o", "comm=", "1").stdout.strip() == "tini"
    on(layout, 1, "sh", "-c", f"echo x >/run/here; echo y >{layout.state}/there")
    assert (layout.node(1).run / "here").read_text() == "x\n"
    assert (layout.node(1).data / "there").read_text() == "y\n"
    assert on(layout, 1, "cat", "/etc/hostname").stdout == "node1\n"


def test_control_groups_can_be_made_inside_and_stay_inside(layout: Layout) -> None:
    lab.boot(layout, layout.nodes(1))
    assert (
        on(
            layout,
            1,
            "sh",
            "-c",
            "for d in $(find /sys/fs/cgroup -maxdepth 2 -name init); do mkdir $d/../mine; done",
        ).returncode
        == 0
    )
    made = [h.path / layout.cgroup / "node1" / "mine" for h in cgroups.hierarchies()]
    assert made
    assert all(path.is_dir() for path in made)


def test_exec_ends_as_the_command_does(layout: Layout) -> None:
    lab.boot(layout, layout.nodes(1))
    assert on(layout, 1, "sh", "-c", "exit 7").returncode == 7
    assert on(layout, 1, "sh", "-c", "kill -9 $$").returncode == 137
    missing = on(layout, 1, "no-such-program")
    assert (missing.returncode, missing.stderr) == (
        127,
        "weft: no-such-program: command not found\n",
    )


def test_exec_passes_signals_on_and_its_command_dies_with_it(layout: Layout) -> None:
    lab.boot(layout, layout.nodes(1))
    group = f"{layout.cgroup}/node1"
    before = cgroups.processes(group)
    for number in (signal.SIGTERM, signal.SIGKILL):
        argv = [
            sys.executable,
            "-c",
            ENTER,
            str(layout.node(1).record),
            "sh",
            "-c",
            "echo ready; exec sleep 1000",
        ]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as command:
            assert command.stdout is not None
            assert command.stdout.readline() == b"ready\n"
            command.send_signal(number)
            assert command.wait(10) in (128 + signal.SIGTERM, -signal.SIGKILL)
        assert eventually(
            lambda: (
                on(layout, 1, "sh", "-c", "ps -eo stat=,args= | grep '^[^Z].*[s]leep 1000'").stdout
                == ""
            )
        )
    assert cgroups.processes(group) == before


def test_orphans_are_reaped(layout: Layout) -> None:
    lab.boot(layout, layout.nodes(1))
    on(layout, 1, "sh", "-c", "(sleep 0.05 & sleep 0.01) &")
    assert eventually(lambda: "Z" not in on(layout, 1, "ps", "--ppid", "1", "-o", "stat=").stdout)


def test_the_host_survives_its_daemon_and_starts_another(layout: Layout) -> None:
    lab.boot(layout, layout.nodes(1))
    node = layout.node(1)
    first = daemons.start(layout, node, FAKE_DAEMON)
    assert daemons.start(layout, node, FAKE_DAEMON) == first
    assert first in cgroups.processes(f"{layout.cgroup}/node1")
    assert eventually(lambda: node.log.read_text().count("started") == 1)
    assert daemons.stop(node, signal.SIGKILL)
    assert not daemons.stop(node)
    assert on(layout, 1, "true").returncode == 0
    second = daemons.start(layout, node, FAKE_DAEMON)
    assert second != first
    assert processes.identify(second.pid) == second
    assert eventually(lambda: node.log.read_text().count("started") == 2)


def test_boot_heals_what_is_dead_and_leaves_the_rest(layout: Layout) -> None:
    nodes = layout.nodes(2)
    lab.boot(layout, nodes)
    kept, lost = (processes.load(node.record) for node in nodes)
    assert kept
    assert lost
    processes.send(lost, signal.SIGKILL)
    assert processes.wait(lost, 10)
    lab.boot(layout, nodes)
    assert processes.load(nodes[0].record) == kept
    assert on(layout, 1, "ping", "-c", "1", "-W", "2", "node2").returncode == 0


def test_down_finds_everything_without_its_records(layout: Layout) -> None:
    lab.boot(layout, layout.nodes(2))
    daemons.start(layout, layout.node(1), FAKE_DAEMON)
    running = cgroups.processes(layout.cgroup)
    for record in layout.run.glob("*.init"):
        record.unlink()
    (layout.run / "node1.daemon").unlink()
    lab.down(layout, QUIET)
    assert len(running) > 4
    assert eventually(
        lambda: all(processes.identify(process.pid) != process for process in running)
    )
    assert traces(layout) == []


def test_down_without_a_lab_is_fine(layout: Layout) -> None:
    lab.down(layout, QUIET)


def test_up_that_fails_takes_back_what_it_began(layout: Layout) -> None:
    with pytest.raises(OperationFailed, match="cannot start the daemon of node1"):
        lab.up(
            layout, 1, QUIET, image=False, command=("sh", "-c", "echo no kernel for this; exit 3")
        )
    assert traces(layout) == []


def test_up_that_is_interrupted_takes_back_what_it_began(layout: Layout) -> None:
    """Ctrl-C comes while the daemon, which never answers, is waited for. In a process of its own:
    an exception that is raised anywhere may leave a lock behind that somebody held for a moment."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, layout.name, layout.run, layout.data]
    ) as bringing_up:
        assert eventually(lambda: layout.node(2).daemon_record.exists())
        bringing_up.send_signal(signal.SIGINT)
        assert bringing_up.wait(30) == 0, "it must end with KeyboardInterrupt"
    assert traces(layout) == []


def test_somebody_elses_bridge_and_subnet_are_left_alone(layout: Layout) -> None:
    subprocess.run(["ip", "link", "add", layout.bridge, "type", "bridge"], check=True)
    try:
        with pytest.raises(Conflict, match=f"cannot create bridge {layout.bridge}"):
            underlay.up(layout)
        lab.down(layout, QUIET)
        assert (
            subprocess.run(
                ["ip", "link", "show", layout.bridge], capture_output=True, check=False
            ).returncode
            == 0
        )
    finally:
        subprocess.run(["ip", "link", "delete", layout.bridge], check=True)


def test_a_number_that_was_given_out_again_is_not_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as innocent:
        real = processes.identify(innocent.pid)
        assert real is not None
        stale = processes.Process(real.pid, real.started - 1)
        processes.save(tmp_path / "record", stale)
        assert processes.load(tmp_path / "record") is None
        assert processes.send(stale, signal.SIGKILL) is False
        assert processes.wait(stale, 1)
        assert processes.send(real, signal.SIGKILL) is True
        assert processes.wait(real, 10)


def test_two_at_once_are_refused(layout: Layout) -> None:
    with lab._alone(layout), pytest.raises(Conflict, match="another"):
        lab.down(layout, QUIET)


def test_exec_of_an_unknown_host(capfd: pytest.CaptureFixture[str]) -> None:
    assert enter.main(["../node1", "--", "true"]) == 125
    assert "cannot run a command on ../node1" in capfd.readouterr().err
    assert hosts.tail(Path("/nonexistent")) == ""
