"""Health checks as a user has them: an image with one, tasks that fail theirs, updates that wait for
health and go back, and a client that asks all the while and misses nothing."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.conftest import Cluster, Names
from weft.lab.lab import IMAGE_ARCHIVE

TAG = "demo-with-check:latest"
PORT = 8096
SICK = "/tmp/sick"
CHECK = {
    "Test": ["CMD-SHELL", f"! test -e {SICK} && wget -q -O- localhost/ping"],
    "Interval": 300_000_000,
    "Timeout": 5_000_000_000,
    "Retries": 2,
    "StartPeriod": 30_000_000_000,
    "StartInterval": 200_000_000,
}
LATE = ("sh", "-c", "sleep 1; exec nginx")
"""Listens a second after its start: who is sent to it before is refused."""


def image_with_check(path: Path) -> Path:
    """The demo image, with a health check in its configuration."""
    with tarfile.open(IMAGE_ARCHIVE) as tar:
        blobs = {m.name: file.read() for m in tar if m.isreg() and (file := tar.extractfile(m))}
    manifest = json.loads(blobs["manifest.json"])[0]
    config = json.loads(blobs.pop(manifest["Config"]))
    config["config"]["Healthcheck"] = CHECK
    document = json.dumps(config).encode()
    name = f"{hashlib.sha256(document).hexdigest()}.json"
    blobs[name] = document
    blobs["manifest.json"] = json.dumps([manifest | {"Config": name, "RepoTags": [TAG]}]).encode()
    with tarfile.open(path, "w") as tar:
        for member, content in blobs.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@contextmanager
def asking(cluster: Cluster) -> Iterator[None]:
    """A client that asks every host in turn while the block lasts, and must be answered always."""
    targets = [f"{address}:{PORT}" for address in cluster.nodes.values()]
    program = [sys.executable, str(Path(__file__).with_name("load.py")), *targets]
    with subprocess.Popen(
        [*cluster.weft, "lab", "exec", "client", "--", *program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        try:
            yield
            out, _ = client.communicate(timeout=60)
        except BaseException:
            client.kill()
            raise
    requests = [json.loads(line) for line in out.splitlines()]
    assert len(requests) > 100
    failed = [r for r in requests if r[5]]
    assert not failed, f"{len(failed)} of {len(requests)} requests failed: {failed[:5]}"


def update_state(cluster: Cluster) -> str:
    status = cluster.inspect("node1", "service", "inspect", "checked")["UpdateStatus"]
    return str(status["State"])


def test_health_decides_who_serves(cluster: Cluster, names: Names, tmp_path: Path) -> None:
    archive = image_with_check(tmp_path / "image.tar")
    for node in cluster.nodes:
        cluster.docker(node, "load", "-q", "-i", str(archive))
    shown = cluster.inspect("node1", "image", "inspect", TAG)["Config"]["Healthcheck"]
    assert shown == CHECK
    cluster.docker(
        "node1", "service", "create", "--name", names("checked"), "--replicas", "3", "-p",
        f"{PORT}:80", "--no-resolve-image", "--stop-grace-period", "3s", "--restart-delay", "0s",
        "--update-failure-action", "rollback", "--update-monitor", "1s", "--rollback-monitor", "1s",
        TAG, *LATE,
    )  # fmt: skip
    assert len(cluster.running("checked")) == 3
    node = cluster.running("checked")[0]["Node"]
    (container, *_) = cluster.containers(node, "checked")
    assert "(healthy)" in cluster.docker(node, "ps", "--filter", "health=healthy")
    health = cluster.inspect(node, "inspect", container)["State"]["Health"]
    assert (health["Status"], health["FailingStreak"]) == ("healthy", 0)
    assert health["Log"][-1]["Output"] == "pong\n"

    began = str(time.time())
    with asking(cluster):
        cluster.docker(node, "exec", container, "touch", SICK)
        cluster.eventually(
            lambda: container not in cluster.container_ids("checked"), 20, "the sick one stopped"
        )
        cluster.eventually(
            lambda: any(
                "unhealthy container" in task["Error"] and task["CurrentState"].startswith("Failed")
                for task in cluster.tasks("checked")
            ),
            20,
            "its task failed",
        )
        cluster.eventually(lambda: len(cluster.running("checked")) == 3, 20, "and was replaced")
        seen = cluster.docker(
            node, "events", "--since", began, "--until", str(time.time()), "--filter",
            "event=health_status", "--format", "{{.Action}} {{.Actor.ID}}",
        )  # fmt: skip
        assert f"health_status: unhealthy {container}" in seen
        # A new task serves once it listens, which its check finds out: nobody is refused.
        cluster.docker("node1", "service", "update", "-q", "--env-add", "A=b", "checked")
        assert update_state(cluster) == "completed"
        cluster.docker(
            "node1", "service", "update", "-q", "--health-cmd", "echo broken; false",
            "--health-retries", "1", "--health-start-period", "1ms", "-d", "checked",
        )  # fmt: skip
        cluster.eventually(lambda: update_state(cluster) == "rollback_completed", 60, "rolled back")
        cluster.eventually(lambda: len(cluster.running("checked")) == 3, 20)
    assert any("broken" in task["Error"] for task in cluster.tasks("checked"))
    # The image's check is not run at all.
    cluster.docker("node1", "service", "update", "-q", "--no-healthcheck", "checked")
    (container, *_) = cluster.containers(node, "checked")
    inspected = cluster.inspect(node, "inspect", container)
    assert "Health" not in inspected["State"]
    assert inspected["Config"]["Healthcheck"]["Test"] == ["NONE"]
