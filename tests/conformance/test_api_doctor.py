"""`weft doctor` against a whole node: outside a swarm, as a manager, as a worker; what it prints and
its exit status."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.conformance.client import Daemon, eventually
from tests.support.fake_images import IMAGE
from weft.cli.doctor import command
from weft.network.kernel_state import HOST

FOUND = re.compile(
    r"(?:error|warning) (node\d )?sysctl net\.ipv4\.ip_forward of the host \(should be 1\):"
    r" (?:it is not as it should be; weft doctor --repair|another program changed it.*)\n"
)


def doctor(daemon: Daemon, *options: str) -> Result:
    return doctor_at(daemon.path, *options)


def doctor_at(path: Path, *options: str) -> Result:
    runner = CliRunner(env={"DOCKER_HOST": f"unix://{path}"})
    return runner.invoke(command, options, standalone_mode=False)


def status(result: Result) -> Any:
    return result.return_value


def change(daemon: Daemon) -> None:
    """Somebody changes a sysctl of the host, of which the daemon is not told. It may notice by
    chance, when it looks after something else."""
    kernel: Any = daemon.node.engine.adapters.network.kernel
    host = kernel.spaces[HOST]
    eventually(lambda: host.sysctl("net.ipv4.ip_forward") == "1")
    host.set_sysctl("net.ipv4.ip_forward", "0")


@pytest.mark.parametrize("in_swarm", [False, True])
def test_what_differs_is_told_and_mended(daemon: Daemon, in_swarm: bool) -> None:
    if in_swarm:
        daemon.ok("swarm", "init")
    daemon.container() if in_swarm else daemon.ok("run", "-d", IMAGE, "sleep", "60")
    well = doctor(daemon)
    assert (well.output, status(well)) == ("nothing is wrong\n", 0)
    change(daemon)
    wrong = doctor(daemon)
    found = FOUND.fullmatch(wrong.output)
    assert found is not None, wrong.output
    assert (found[1] or "") == ("node1 " if in_swarm else "")
    assert status(wrong) == 1
    mended = doctor(daemon, "--repair", "--json")
    told = json.loads(mended.output)
    if "weft doctor --repair" in wrong.output:
        assert [each["Node"] for each in told["Mended"]] == ["node1"]
        assert "it was not as it should be" in told["Mended"][0]["What"]
    assert [each["Severity"] for each in told["Findings"]] == ["warning"]
    assert "it was mended" in told["Findings"][0]["Cause"]
    assert status(mended) == 1
    again = doctor(daemon, "--repair")
    assert again.output.startswith("nothing had to be mended\nwarning ")


def test_a_manager_looks_at_all_nodes_and_a_worker_at_itself(
    manager: Daemon, worker: Daemon
) -> None:
    change(worker)
    at_manager, at_worker = doctor(manager), doctor(worker)
    for result, node in ((at_manager, "node2 "), (at_worker, "")):
        found = FOUND.fullmatch(result.output)
        assert found is not None, result.output
        assert (found[1] or "", status(result)) == (node, 1)
    change(manager)
    assert "node1" not in doctor(worker).output
    assert "node1" in doctor(manager).output


def test_a_daemon_that_does_not_answer(tmp_path: Path) -> None:
    blind = doctor_at(tmp_path / "docker.sock")
    assert status(blind) == 2
    assert "cannot reach the daemon" in blind.output
