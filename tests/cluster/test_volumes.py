"""Volumes of services: what a database keeps over updates and removals, what an image brings, file
systems that are mounted for tasks, and that nothing is left behind."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import Cluster, Names
from weft.lab import demo_image

IMAGE = "volumes.test/database:1"
SEED = "seed of the image\n"


@pytest.fixture
def image(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """On node1: the demo image with a database's directories, one of them a VOLUME."""
    base, path = tmp_path / "base.tar", tmp_path / "image.tar"
    demo_image.build(base)
    with tarfile.open(base) as archive:
        files = {
            member.name: file.read()
            for member in archive
            if member.isfile() and (file := archive.extractfile(member))
        }
    (manifest,) = json.loads(files["manifest.json"])
    config = json.loads(files.pop(manifest["Config"]))
    added = layer()
    config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(added).hexdigest()}")
    config["config"]["Volumes"] = {"/var/lib/database": {}}
    manifest |= {"Config": "c.json", "RepoTags": [IMAGE], "Layers": [*manifest["Layers"], "l.tar"]}
    files |= {
        "c.json": json.dumps(config).encode(),
        "l.tar": added,
        "manifest.json": json.dumps([manifest]).encode(),
    }
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    cluster.docker("node1", "load", "-i", str(path))
    yield IMAGE
    cluster.eventually(lambda: cluster.docker("node1", "rmi", IMAGE))


def layer() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for place in ("data", "var/lib/database"):
            directory = tarfile.TarInfo(place)
            directory.type, directory.mode, directory.uid, directory.gid = (
                tarfile.DIRTYPE,
                0o750,
                70,
                71,
            )
            tar.addfile(directory)
            seed = tarfile.TarInfo(f"{place}/seed")
            seed.mode, seed.uid, seed.gid, seed.size = 0o640, 70, 71, len(SEED)
            tar.addfile(seed, io.BytesIO(SEED.encode()))
    return buffer.getvalue()


def test_a_database_keeps_its_data_and_leaves_nothing_else(
    cluster: Cluster, names: Names, image: str
) -> None:
    name = names("database")
    options = (
        "--detach", "--no-resolve-image", "--constraint", "node.hostname==node1",
        "--restart-delay", "100ms", "--stop-grace-period", "100ms",
        "--mount", "type=volume,source=database-data,target=/data,volume-label=of=test",
        "--mount", "type=volume,source=database-{{.Node.Hostname}},target=/scratch,volume-opt=type=tmpfs,"
                   "volume-opt=device=tmpfs,volume-opt=o=size=1m",
    )  # fmt: skip
    script = "echo start >> /data/log; touch /scratch/$HOSTNAME; echo ready; exec sleep 1000"

    def create() -> str:
        cluster.docker(
            "node1", "service", "create", "--name", name, *options, image, "sh", "-c", script
        )
        return started(1)

    def started(count: int) -> str:
        """The container, once the log has so many lines."""

        def condition() -> str | None:
            (container,) = cluster.containers("node1", name) or [""]
            if not container:
                return None
            log = cluster.docker("node1", "exec", container, "cat", "/data/log")
            return container if log == "start\n" * count else None

        return str(cluster.eventually(condition, 30, f"start {count}"))

    def volumes(*filters: str) -> list[str]:
        argv = [word for value in filters for word in ("--filter", value)]
        return cluster.docker("node1", "volume", "ls", "-q", *argv).split()

    def mounted() -> str:
        return cluster.on(
            "node1", "grep", "-c", "database-node1/_data ", "/proc/mounts", ok=False
        ).strip()

    before = set(volumes())
    container = create()

    # The image's files and their owners are in both volumes, the named one and the image's own.
    listing = cluster.docker(
        "node1", "exec", container, "stat", "-c", "%n %u %g %a", "/data", "/data/seed",
        "/var/lib/database", "/var/lib/database/seed",
    )  # fmt: skip
    assert listing.splitlines() == [
        "/data 70 71 750", "/data/seed 70 71 640", "/var/lib/database 70 71 750", "/var/lib/database/seed 70 71 640",
    ]  # fmt: skip
    assert cluster.docker("node1", "exec", container, "cat", "/var/lib/database/seed") == SEED
    shown = {
        mount["Destination"]: mount
        for mount in cluster.inspect("node1", "inspect", container)["Mounts"]
    }
    anonymous = shown["/var/lib/database"]["Name"]
    assert len(anonymous) == 64
    assert set(volumes()) - before == {"database-data", "database-node1", anonymous}
    assert mounted() == "1"

    # A volume that a container has cannot be removed.
    for volume in ("database-data", "database-node1", anonymous):
        said = cluster.docker_fails("node1", "volume", "rm", volume)
        assert f"remove {volume}: volume is in use - [{container}" in said
    assert volumes("dangling=true", "label=of=test") == []

    # The next task has the data; the old task's container, and its own volume, stay until the
    # service goes.
    cluster.docker("node1", "service", "update", "--detach", "--env-add", "A=b", name)
    second = started(2)
    assert second != container
    cluster.docker("node1", "exec", second, "rm", "/data/seed")

    cluster.docker("node1", "service", "rm", name)
    cluster.eventually(lambda: set(volumes()) - before == {"database-data", "database-node1"}, 30)
    cluster.eventually(lambda: mounted() == "0", 10, "the file system unmounted")

    # A service of the same name finds its data, and the image's files are not copied again.
    cluster.docker(
        "node1", "service", "create", "--name", name, *options, image, "sh", "-c", script
    )
    third = started(3)
    assert cluster.docker("node1", "exec", third, "ls", "/data") == "log\n"
    assert len(cluster.docker("node1", "exec", third, "ls", "/scratch").split()) == 1
    cluster.docker("node1", "service", "rm", name)
    cluster.eventually(
        lambda: set(volumes("dangling=true")) >= {"database-data", "database-node1"}, 30
    )
    assert "database-data" in cluster.docker(
        "node1", "volume", "prune", "-af", "--filter", "label=of=test"
    )
    cluster.docker("node1", "volume", "rm", "database-node1")
    assert set(volumes()) - before == set()


def test_a_volume_that_cannot_be_mounted_fails_its_task_alone(
    cluster: Cluster, names: Names
) -> None:
    name = names("unmountable")
    cluster.docker(
        "node1", "service", "create", "--detach", "--name", name, "--restart-condition", "none",
        "--constraint", "node.hostname==node1", "--mount",
        "type=volume,source=unmountable,target=/v,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=/no/such",
        cluster.image,
    )  # fmt: skip
    cluster.eventually(lambda: cluster.tasks(name)[0]["CurrentState"].startswith("Rejected"), 20)
    error = cluster.tasks(name)[0]["Error"]
    assert "failed to mount local volume: mount /no/such:" in error
    assert error.endswith('data: bind: no such file or directory"')
    cluster.docker("node1", "volume", "rm", "unmountable")
