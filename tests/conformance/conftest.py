"""The API as the stock docker command sees it: a node outside a swarm, and one that is its manager.
Both event loops that the daemon may run on are tried where it matters: for streams."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from tests.conformance.client import Daemon


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def any_daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "docker.sock", request.param)
    yield daemon
    daemon.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path / "docker.sock")
    yield daemon
    daemon.close()


@pytest.fixture
def manager(daemon: Daemon) -> Daemon:
    daemon.ok("swarm", "init")
    return daemon


@pytest.fixture
def worker(manager: Daemon, tmp_path: Path) -> Iterator[Daemon]:
    """A second node, `node2`, which has joined."""
    worker = Daemon(tmp_path / "worker.sock", hostname="node2")
    token = manager.ok("swarm", "join-token", "-q", "worker").strip()
    worker.ok("swarm", "join", "--token", token, f"{manager.node.address}:2377")
    yield worker
    worker.close()
