"""`weft flows` against a whole node: what it asks of the API, and what it refuses. Its kernel is a
fake, which tracks nothing."""

import json
import os
import subprocess
import sys

from tests.conformance.client import Daemon
from tests.support.fake_images import IMAGE


def flows(daemon: Daemon, *options: str) -> "subprocess.CompletedProcess[str]":
    environment = dict(os.environ, DOCKER_HOST=f"unix://{daemon.path}")
    words = [sys.executable, "-m", "weft", "flows", *options]
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)


def test_flows_of_a_manager(manager: Daemon) -> None:
    manager.ok("service", "create", "-q", "--name", "web", IMAGE, "sleep", "1000")
    shown = flows(manager)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split() == [
        "SOURCE", "TARGET", "PORT", "BY", "CONNECTIONS", "SENT", "RECEIVED",
    ]  # fmt: skip
    assert json.loads(flows(manager, "--service", "web", "--json").stdout) == {
        "Flows": [],
        "Silent": [],
    }


def test_what_cannot_be_shown_is_refused(manager: Daemon, worker: Daemon) -> None:
    assert "service nope not found" in flows(manager, "--service", "nope").stderr
    assert "Service: 'xxx" in flows(manager, "--service", "x" * 300).stderr
    assert "This node is not a swarm manager" in flows(worker).stderr
