"""The whole program as its user has it: a lab of three hosts, the stock docker command, and what a
person at a host would type.

`cluster` is one lab for the whole run. A lab that is up already is used and left up. Every test
gets its own names and removes what it made (`names`), so that tests do not depend on each other.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "zaggash/demo-webapp"
WEFT = [str(Path(sys.executable).with_name("weft"))]
NODES = {"node1": "10.59.72.11", "node2": "10.59.72.12", "node3": "10.59.72.13"}
CLIENT = "10.59.72.100"
Names = Callable[[str], str]
"""Takes a name for a test's own; gives it back."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With WEFT_FAULTS_SEED, as in scripts/soak, in another order: faults meet what other faults
    left."""
    if seed := os.environ.get("WEFT_FAULTS_SEED"):
        random.Random(seed).shuffle(items)


class Cluster:
    """Commands against the lab. Each raises `AssertionError` with the command's words if it fails
    and `ok` was not False."""

    nodes = NODES
    client = CLIENT
    image = IMAGE
    weft = WEFT

    def run(
        self, *argv: str, ok: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert not ok or done.returncode == 0, (
            f"{' '.join(argv)}: exit {done.returncode}:"
            f" {(done.stderr or done.stdout).strip()[-800:]}"
        )
        return done

    def docker(self, node: str, *argv: str, timeout: float = 90) -> str:
        return self.run(
            "docker", "-H", f"unix:///run/weft/lab/{node}/docker.sock", *argv, timeout=timeout
        ).stdout

    def docker_fails(self, node: str, *argv: str) -> str:
        """What it says when it is refused."""
        done = self.run("docker", "-H", f"unix:///run/weft/lab/{node}/docker.sock", *argv, ok=False)
        assert done.returncode != 0, f"docker {' '.join(argv)} was not refused: {done.stdout}"
        return done.stderr.strip()

    def on(self, node: str, *argv: str, ok: bool = True, timeout: float = 60) -> str:
        return self.run(*WEFT, "lab", "exec", node, "--", *argv, ok=ok, timeout=timeout).stdout

    def lab(self, *argv: str) -> str:
        return self.run(*WEFT, "lab", *argv).stdout

    def inspect(self, node: str, *argv: str) -> Any:
        return json.loads(self.docker(node, *argv))[0]

    def tasks(self, service: str) -> list[dict[str, Any]]:
        """As `docker service ps` lists them, newest first."""
        out = self.docker("node1", "service", "ps", "--no-trunc", service, "--format", "{{json .}}")
        return [json.loads(line) for line in out.splitlines()]

    def running(self, service: str) -> list[dict[str, Any]]:
        return [
            t
            for t in self.tasks(service)
            if t["CurrentState"].startswith("Running") and t["DesiredState"] == "Running"
        ]

    def containers(self, node: str, service: str) -> list[str]:
        out = self.docker(
            node,
            "ps",
            "-q",
            "--no-trunc",
            "--filter",
            f"label=com.docker.swarm.service.name={service}",
        )
        return sorted(out.split())

    def all_containers(self, service: str) -> dict[str, list[str]]:
        return {node: self.containers(node, service) for node in NODES}

    def container_ids(self, service: str) -> list[str]:
        return [id for ids in self.all_containers(service).values() for id in ids]

    def pid(self, node: str, container: str) -> str:
        return self.docker(node, "inspect", "-f", "{{.State.Pid}}", container).strip()

    def inside(self, node: str, container: str, *argv: str, ok: bool = True) -> str:
        """A program of the host, run in the container's network namespace."""
        return self.on(node, "nsenter", "-n", "-t", self.pid(node, container), *argv, ok=ok)

    def overlay(self, network: str) -> list[str]:
        """The words that enter the overlay's namespace on a host."""
        id = self.docker(
            "node1", "network", "ls", "-q", "--no-trunc", "--filter", f"name=^{network}$"
        ).strip()
        return ["nsenter", f"--net=/run/docker/netns/1-{id[:10]}"]

    def whoami(
        self, address: str, times: int, port: int = 8080, seconds: int = 3
    ) -> list[dict[str, str]]:
        """What the application answers to new connections from outside the cluster; stops at the
        first that fails."""
        loop = (
            f"for i in $(seq {times}); do curl -sS --max-time {seconds}"
            f" http://{address}:{port}/whoami || exit 1; echo; done"
        )
        return [
            json.loads(line)
            for line in self.on("client", "sh", "-c", loop).splitlines()
            if line.strip()
        ]

    def answers(self, address: str, port: int = 8080) -> bool:
        return self.run(*WEFT, "lab", "exec", "client", "--", "curl", "-sS", "-o", "/dev/null", "--max-time", "1",
                        f"http://{address}:{port}/whoami", ok=False).returncode == 0  # fmt: skip

    def create(
        self, name: str, *options: str, replicas: int = 3, command: tuple[str, ...] = ()
    ) -> None:
        """A service of the demo image; waits until it has converged."""
        self.docker(
            "node1",
            "service",
            "create",
            "--name",
            name,
            "--replicas",
            str(replicas),
            *options,
            IMAGE,
            *command,
        )

    def eventually(self, condition: Callable[..., Any], timeout: float = 20, what: str = "") -> Any:
        """The first true value of the condition, which is called without arguments: what it has may
        be there to keep values of a loop. A failed command counts as not yet."""
        deadline = time.monotonic() + timeout
        last: object = None
        while True:
            try:
                last = condition()
                if last:
                    return last
            except AssertionError as error:
                last = error
            assert time.monotonic() < deadline, (
                f"{what or condition} did not come true in {timeout} s; last: {last!r}"
            )
            time.sleep(0.1)


@pytest.fixture(scope="session")
def commands() -> Cluster:
    """For tests that make a lab of their own."""
    if os.geteuid():
        pytest.skip("needs root")
    return Cluster()


@pytest.fixture(scope="session")
def cluster(commands: Cluster) -> Iterator[Cluster]:
    made = commands
    was_up = made.run(*WEFT, "lab", "status", ok=False).returncode == 0
    made.run(*WEFT, "lab", "up", "--nodes", "3", timeout=300)
    yield made
    if not was_up:
        made.run(*WEFT, "lab", "down")


@pytest.fixture
def names(cluster: Cluster) -> Iterator[Names]:
    """Names for a test's services and networks; all of them are removed afterwards, services
    first."""
    given: list[str] = []

    def name(base: str) -> str:
        given.append(base)
        return base

    yield name
    wanted = set(given)
    services = (
        set(cluster.docker("node1", "service", "ls", "--format", "{{.Name}}").split()) & wanted
    )
    if services:
        cluster.docker("node1", "service", "rm", *services)
        for service in services:
            cluster.eventually(
                lambda service=service: not any(cluster.all_containers(service).values()),
                30,
                f"{service} gone",
            )
    networks = (
        set(cluster.docker("node1", "network", "ls", "--format", "{{.Name}}").split()) & wanted
    )
    for network in networks:
        cluster.eventually(
            lambda network=network: cluster.docker("node1", "network", "rm", network),
            15,
            f"{network} removed",
        )


@pytest.fixture
def healthy(cluster: Cluster) -> Iterator[Cluster]:
    """For tests that break hosts or daemons: mended before and afterwards, and waited for."""
    yield cluster
    for number in (1, 2, 3):
        cluster.run("ip", "link", "set", f"weft-n{number}", "up")
    cluster.lab("up")
    ready = ("node", "ls", "--format", "{{.Status}}")
    cluster.eventually(
        lambda: cluster.docker("node1", *ready).split() == ["Ready"] * 3, 40, "three nodes ready"
    )
