"""`weft trace` against a whole node: what it asks of the API, and what it prints."""

import json
import os
import subprocess
import sys

from tests.conformance.client import Daemon
from tests.support.fake_images import IMAGE


def trace(daemon: Daemon, *argv: str) -> "subprocess.CompletedProcess[str]":
    environment = dict(os.environ, DOCKER_HOST=f"unix://{daemon.path}")
    words = [sys.executable, "-m", "weft", "trace", *argv]
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)


def test_a_trace_from_task_to_service(manager: Daemon) -> None:
    manager.ok("network", "create", "-d", "overlay", "mynet")
    for name in ("web", "app"):
        manager.ok(
            "service", "create", "-q", "--name", name, "--network", "mynet", IMAGE, "sleep", "1000"
        )
    found = trace(manager, "app", "web", "--port", "80")
    assert found.returncode == 0, found.stdout + found.stderr
    lines = found.stdout.splitlines()
    assert lines[:2] == ["the packet", "  node1"]
    assert "resolver" in lines[2]
    assert "its answer" in lines
    assert lines[-2] == "the packet arrives, and its answer comes back"
    assert lines[-1].startswith("not probed: ")
    assert lines[-1].endswith("cannot send packets: this node has no kernel")
    unprobed = trace(manager, "app", "web", "--port", "80", "--no-probe")
    assert (unprobed.returncode, unprobed.stdout.splitlines()) == (0, lines[:-1])
    parsed = json.loads(trace(manager, "app", "web.mynet", "--port", "80", "--json").stdout)
    assert parsed["Arrived"]
    assert parsed["Probe"]["Sent"] is False
    assert parsed["Out"][0]["Name"] == "web.mynet"
    unknown = trace(manager, "app", "webb", "--port", "80")
    assert unknown.returncode == 1
    assert "cannot look up webb: no network of the sender knows this name" in unknown.stdout


def test_what_cannot_be_traced_is_named(manager: Daemon, worker: Daemon) -> None:
    assert (
        "cannot trace nobody (source): no task, service" in trace(manager, "nobody", "web").stderr
    )
    assert "is not an IPv4 address" in trace(manager, "--from-outside", "x", ":80").stderr
    assert "This node is not a swarm manager" in trace(worker, "app", "web").stderr
