"""Two whole nodes, of which the first is the manager, and programs that stand in for those that
health checks of stack files call."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.client import Daemon, eventually
from tests.stacks.stack import Stack

PROBES = {"pg_isready": "", "redis-cli": "PONG", "rabbitmq-diagnostics": "", "wget": ""}
"""What each prints when it succeeds, as all of them do."""


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Daemon]]:
    if shutil.which("docker") is None:
        pytest.skip("needs the docker command")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, says in PROBES.items():
        (programs / name).write_text(f"#!/bin/sh\necho {says}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    manager = Daemon(tmp_path / "docker.sock")
    monkeypatch.setenv("DOCKER_SOCKET", str(manager.path))
    worker = Daemon(tmp_path / "worker.sock", hostname="node2")
    try:
        manager.ok("swarm", "init")
        token = manager.ok("swarm", "join-token", "-q", "worker").strip()
        worker.ok("swarm", "join", "--token", token, f"{manager.node.address}:2377")
        ready = ("node", "ls", "--format", "{{.Status}}")
        eventually(lambda: manager.ok(*ready).split() == ["Ready"] * 2)
        yield [manager, worker]
        # Sessions end here, so that their connections are closed before the event loops are.
        worker.ok("swarm", "leave")
        manager.ok("swarm", "leave", "--force")
    finally:
        worker.close()
        manager.close()


@pytest.fixture
def stack(nodes: list[Daemon], tmp_path: Path) -> Callable[[str, str], Stack]:
    """Makes one of a name and the directory of its files."""
    return lambda name, directory: Stack(nodes, name, directory, tmp_path)
