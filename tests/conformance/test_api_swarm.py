"""The swarm and its nodes as the stock docker command sees them: a real server on a UNIX socket,
behind it a whole node."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conformance.client import Daemon

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")


def test_swarm_init_join_token_update_and_leave(daemon: Daemon) -> None:
    out = daemon.ok("swarm", "init", "--availability", "drain")
    assert daemon.ok("node", "inspect", "self", "-f", "{{.Spec.Availability}}") == "drain\n"
    assert re.search(r"Swarm initialized: current node \([0-9a-z]{25}\) is now a manager", out)
    assert re.search(
        rf"docker swarm join --token SWMTKN-1-[0-9a-z]{{50}}-[0-9a-z]{{25}} {daemon.node.address}:2377",
        out,
    )
    assert "already part of a swarm" in daemon.refused("swarm", "init")
    tokens = {
        daemon.ok("swarm", "join-token", "-q", *asked).strip()
        for asked in (["manager"], ["worker"], ["--rotate", "worker"], ["--rotate", "manager"])
    }
    assert len(tokens) == 4
    assert len({token.split("-")[2] for token in tokens}) == 1, "they name one root certificate"
    daemon.ok("swarm", "update", "--task-history-limit", "3")
    assert json.loads(daemon.ok("info", "--format", "json"))["Swarm"]["Cluster"]["Spec"][
        "Orchestration"
    ] == {"TaskHistoryRetentionLimit": 3}
    assert "participating as a manager" in daemon.refused("swarm", "leave")
    daemon.ok("swarm", "leave", "--force")
    assert "inactive" in daemon.ok("info", "--format", "{{.Swarm.LocalNodeState}}")


def test_the_root_of_the_swarm(manager: Daemon, tmp_path: Path) -> None:
    """It is shown, and replaced: by a new one, by one that is brought. The command ends when every
    node has it."""
    first = manager.ok("swarm", "ca")
    assert "BEGIN CERTIFICATE" in first
    worker = manager.ok("swarm", "join-token", "-q", "worker")
    manager.ok("swarm", "update", "--cert-expiry", "720h")
    assert manager.ok("swarm", "ca") == first
    shown = manager.ok("swarm", "ca", "--rotate", "--cert-expiry", "48h")
    assert "rotated TLS certificates" in shown
    second = manager.ok("swarm", "ca")
    assert second not in ("", first)
    assert second.strip() in shown
    assert manager.ok("swarm", "join-token", "-q", "worker") != worker
    info = json.loads(manager.ok("info", "--format", "json"))["Swarm"]["Cluster"]
    assert info["Spec"]["CAConfig"] == {"NodeCertExpiry": 48 * 3600 * 10**9, "ForceRotate": 1}
    assert (
        json.loads(manager.ok("node", "inspect", "self"))[0]["Description"]["TLSInfo"]
        == info["TLSInfo"]
    )
    certificate, key = tmp_path / "ca.crt", tmp_path / "ca.key"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1000",
            "-subj",
            "/CN=ours",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        capture_output=True,
        check=True,
    )
    manager.ok("swarm", "ca", "--rotate", "--ca-cert", str(certificate), "--ca-key", str(key))
    assert manager.ok("swarm", "ca").strip() == certificate.read_text().strip()


def test_a_root_that_is_none(manager: Daemon, tmp_path: Path) -> None:
    certificate, key, other = tmp_path / "ca.crt", tmp_path / "ca.key", tmp_path / "other.key"
    for days, where in (("1000", other), ("300", key)):
        request = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            days,
            "-subj",
            "/CN=ours",
        ]
        subprocess.run(
            [*request, "-keyout", where, "-out", certificate], capture_output=True, check=True
        )
    before = manager.ok("swarm", "ca")
    bring = ("swarm", "ca", "--rotate", "--ca-cert", str(certificate), "--ca-key")
    assert "expires too soon" in manager.refused(*bring, str(key))
    assert "do not belong together" in manager.refused(*bring, str(other))
    external = ("--external-ca", "protocol=cfssl,url=https://ca.example.org")
    assert "ExternalCAs is not supported" in manager.refused("swarm", "update", *external)
    assert manager.ok("swarm", "ca") == before


def test_swarm_join(manager: Daemon, tmp_path: Path) -> None:
    token = manager.ok("swarm", "join-token", "-q", "worker").strip()
    there = f"{manager.node.address}:2377"
    other = Daemon(tmp_path / "other.sock", hostname="node2")
    try:
        assert "invalid join token" in other.refused("swarm", "join", "--token", "nonsense", there)
        wrong = token[:-25] + "0" * 25
        assert "A valid join token is necessary" in other.refused(
            "swarm", "join", "--token", wrong, there
        )
        told = other.ok("swarm", "join", "--token", token, there)
        assert "joined a swarm as a worker" in told
        assert "already part of a swarm" in other.refused("swarm", "join", "--token", token, there)
        assert "not a swarm manager" in other.refused("node", "ls")
        assert other.ok("info", "-f", "{{.Swarm.LocalNodeState}}") == "active\n"
        other.ok("swarm", "leave")
        assert other.ok("info", "-f", "{{.Swarm.LocalNodeState}}") == "inactive\n"
    finally:
        other.close()


def test_nodes(manager: Daemon) -> None:
    row = json.loads(manager.ok("node", "ls", "--format", "json"))
    assert (row["Hostname"], row["Status"], row["Availability"], row["ManagerStatus"]) == (
        "node1",
        "Ready",
        "Active",
        "Leader",
    )
    manager.ok("node", "update", "--label-add", "zone=a", "--availability", "pause", "node1")
    assert (
        manager.ok("node", "inspect", "self", "-f", "{{.Spec.Labels.zone}} {{.Spec.Availability}}")
        == "a pause\n"
    )
    assert manager.ok("node", "ls", "-q", "--filter", "node.label=zone=b") == ""
    assert "node nobody not found" in manager.refused("node", "inspect", "nobody")
    assert "is a cluster manager" in manager.refused("node", "rm", "node1")
