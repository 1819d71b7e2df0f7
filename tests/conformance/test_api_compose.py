"""Docker Compose as it asks a node outside a swarm: what files say beside what runs in the lab
(`tests/cluster/test_compose.py`), and the verbs that people type."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.client import Daemon, eventually
from tests.support.api_daemon import DEADLINE
from tests.support.fake_images import IMAGE

FILE = f"""
services:
  first:
    image: {IMAGE}
    command: sh -c "echo first; exec sleep 600"
    network_mode: none
    expose: ["90", "91-93/udp"]
    hostname: one
    domainname: example.com
    annotations: {{com.example.note: kept}}
    labels: [com.example.team=shop]
    environment:
      GREETING: good morning
    mem_limit: 64m
    pids_limit: 50
    cpus: 0.5
    group_add: ["44"]
    tty: true
    stop_signal: SIGKILL
    deploy:
      replicas: 2
  second:
    image: {IMAGE}
    command: sh -c "echo second; exit 3"
    network_mode: none
    depends_on: [first]
  tool:
    image: {IMAGE}
    network_mode: none
    profiles: [tools]
"""


class Project:
    """A Compose project named `t`."""

    def __init__(self, daemon: Daemon, directory: Path) -> None:
        self.daemon, self._file = daemon, directory / "compose.yaml"
        self._file.write_text(FILE)

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        command = [*self.daemon.client, "compose", "-p", "t", "-f", str(self._file), *argv]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=DEADLINE, check=False, env=os.environ
        )

    def ok(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def states(self) -> dict[str, str]:
        lines = self.ok("ps", "-a", "--format", "json").splitlines()
        return {found["Name"]: found["State"] for found in map(json.loads, lines)}


@pytest.fixture
def project(daemon: Daemon, tmp_path: Path) -> Project:
    return Project(daemon, tmp_path)


def test_a_project_is_made_as_its_file_says(project: Project) -> None:
    project.ok("up", "-d")
    eventually(
        lambda: (
            project.states()
            == {"t-first-1": "running", "t-first-2": "running", "t-second-1": "exited"}
        )
    )
    (made,) = json.loads(project.daemon.ok("inspect", "t-first-1"))
    config: dict[str, Any] = made["Config"]
    exposed = {"90/tcp", "91/udp", "92/udp", "93/udp"}
    assert {port for port in config["ExposedPorts"] if port != "80/tcp"} == exposed
    assert (config["Hostname"], config["Domainname"]) == ("one", "example.com")
    assert config["Labels"]["com.docker.compose.project"] == "t"
    assert config["Labels"]["com.example.team"] == "shop"
    assert "GREETING=good morning" in config["Env"]
    host = made["HostConfig"]
    assert (host["Memory"], host["PidsLimit"], host["NanoCpus"]) == (64 << 20, 50, 500_000_000)
    assert (host["GroupAdd"], host["Annotations"]) == (["44"], {"com.example.note": "kept"})
    assert "second-1  | second" in project.ok("logs", "--no-color", "second")


def test_the_verbs_that_people_type(project: Project) -> None:
    project.ok("up", "-d", "first")
    assert project.ok("exec", "-T", "first", "echo", "hello") == "hello\n"
    assert project.ok("run", "--rm", "-T", "tool", "echo", "from a profile") == "from a profile\n"
    project.ok("pause", "first")
    assert set(project.states().values()) == {"paused"}
    project.ok("unpause", "first")
    project.ok("restart", "-t", "0", "first")
    project.ok("stop", "-t", "0")
    assert set(project.states().values()) == {"exited"}
    project.ok("start")
    project.ok("up", "-d", "--force-recreate", "--scale", "first=1", "first")
    assert list(project.states().values()) == ["running"]
    assert json.loads(project.ok("ls", "--format", "json"))[0]["Name"] == "t"
    project.ok("kill", "first")
    project.ok("rm", "-f")
    assert project.run("up", "--exit-code-from", "second", "second").returncode == 3
    project.ok("down", "-v", "-t", "0")
    assert project.daemon.ok("ps", "-aq") == ""
