"""Volumes as the stock docker command and docker-py see them: the node's own, and those that
services ask for."""

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime

import docker
import docker.errors
import docker.types
import pytest

from tests.conformance.client import Daemon, eventually
from tests.support.fake_images import IMAGE

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")


@pytest.fixture
def client(daemon: Daemon) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=f"unix://{daemon.path}", version="auto")
    yield client
    client.close()


def names(daemon: Daemon, *filters: str) -> list[str]:
    argv = [word for value in filters for word in ("--filter", value)]
    return daemon.ok("volume", "ls", "-q", *argv).split()


def test_a_node_without_a_swarm_has_volumes(daemon: Daemon) -> None:
    assert daemon.ok("volume", "create", "data", "--label", "tier=db", "--label", "x") == "data\n"
    assert daemon.ok("volume", "create", "data") == "data\n"
    anonymous = daemon.ok("volume", "create").strip()
    assert re.fullmatch("[0-9a-f]{64}", anonymous)
    daemon.ok("volume", "create", "far", "-o", "type=nfs", "-o", "o=addr=10.0.0.1,rw", "-d", "local",
              "-o", "device=:/export")  # fmt: skip
    data, other, far = json.loads(daemon.ok("volume", "inspect", "data", anonymous, "far"))
    made = datetime.fromisoformat(data.pop("CreatedAt"))
    assert abs((datetime.now(UTC) - made).total_seconds()) < 60
    assert data == {
        "Driver": "local", "Labels": {"tier": "db", "x": ""}, "Mountpoint": "/var/lib/weft/volumes/data/_data",
        "Name": "data", "Options": None, "Scope": "local",
    }  # fmt: skip
    assert other["Labels"] == {"com.docker.volume.anonymous": ""}
    assert far["Options"] == {"type": "nfs", "o": "addr=10.0.0.1,rw", "device": ":/export"}
    for filters, found in (
        (["name=dat"], ["data"]),
        (["name=^data$", "driver=local"], ["data"]),
        (["driver=rexray"], []),
        (["label=tier=db", "label=x"], ["data"]),
        (["label=tier=web"], []),
        (["dangling=true", "name=a"], ["data", "far"]),
        (["dangling=false"], []),
    ):
        assert [n for n in names(daemon, *filters) if n != anonymous] == found, filters
    assert "local     data" in daemon.ok("volume", "ls")
    usage = json.loads(daemon.ok("system", "df", "-v", "--format", "json"))["Volumes"]
    shown = {v["Name"]: (v["Links"], v["Size"]) for v in usage}
    assert shown == {"data": ("0", "0B"), anonymous: ("0", "0B")}
    assert "invalid filter 'size'" in daemon.refused("volume", "ls", "--filter", "size=1")
    assert "invalid filter 'dangling=" in daemon.refused("volume", "ls", "--filter", "dangling=so")


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["create", "-d", "rexray", "data"], 'error looking up volume plugin rexray: plugin "rexray" not found'),
        (["create", "x"], "volume name is too short, names should be at least two alphanumeric"),
        (["create", "a/b"], '"a/b" includes invalid characters for a local volume name'),
        (["create", "data", "-o", "colour=red"], 'invalid option: "colour"'),
        (["create", "data", "-o", "type=nfs"], 'missing required option: "device"'),
        (["create", "data", "--type", "block", "--scope", "single", "-d", "csi"], "ClusterVolumeSpec is not supported by Weft"),
        (["inspect", "none"], "get none: no such volume"),
        (["rm", "none"], "get none: no such volume"),
        (["prune", "-f", "--filter", "until=1h"], "invalid filter 'until'"),
        (["prune", "-f", "--filter", "all=maybe"], "invalid filter 'all=maybe'"),
    ],
)  # fmt: skip
def test_what_is_refused(daemon: Daemon, argv: list[str], text: str) -> None:
    assert text in daemon.refused("volume", *argv)


def test_pruning(daemon: Daemon, client: docker.DockerClient) -> None:
    anonymous = [daemon.ok("volume", "create").strip() for _ in range(2)]
    daemon.ok("volume", "create", "kept", "--label", "keep")
    daemon.ok("volume", "create", "loose")
    daemon.ok("volume", "create", "far", "-o", "type=tmpfs", "-o", "device=tmpfs")
    said = daemon.ok("volume", "prune", "-f")
    assert all(name in said for name in anonymous)
    assert "Total reclaimed space: 0B" in said
    assert names(daemon) == ["far", "kept", "loose"]
    assert "loose" in daemon.ok("volume", "prune", "-f", "-a", "--filter", "label!=keep")
    assert names(daemon) == ["far", "kept"]
    # Before 1.42 there was no difference between volumes with and without a name.
    old = docker.DockerClient(base_url=f"unix://{daemon.path}", version="1.41")
    assert old.volumes.prune() == {"VolumesDeleted": ["kept"], "SpaceReclaimed": 0}
    old.close()
    assert client.volumes.prune() == {"VolumesDeleted": [], "SpaceReclaimed": 0}
    assert daemon.ok("volume", "rm", "-f", "far", "none") == "far\nnone\n"


def test_only_cluster_volumes_can_be_updated(daemon: Daemon, client: docker.DockerClient) -> None:
    def update(query: str) -> tuple[int, str]:
        api = client.api
        response = api._put(api._url("/volumes/data" + query), json={})
        return response.status_code, response.json()["message"]

    daemon.ok("volume", "create", "data")
    assert "can only update cluster volumes" in daemon.refused("volume", "update", "data")
    only = "volume update only valid for cluster volumes, but swarm is unavailable"
    assert update("?version=1") == (503, only)
    daemon.ok("swarm", "init")
    assert update("?version=1") == (404, "volume data not found")
    assert update("?version=x") == (400, "invalid swarm object version 'x': invalid syntax")


def test_docker_py_makes_and_removes_volumes(client: docker.DockerClient) -> None:
    volume = client.volumes.create("data", driver="local", labels={"a": "b"})
    assert client.volumes.get("data").attrs["Labels"] == {"a": "b"}
    assert [v.name for v in client.volumes.list(filters={"label": "a=b"})] == ["data"]
    volume.remove()
    with pytest.raises(docker.errors.NotFound, match="get data: no such volume"):
        client.volumes.get("data")


def test_a_services_mounts_as_every_command_shows_them(
    manager: Daemon, client: docker.DockerClient
) -> None:
    manager.ok(
        "service", "create", "-q", "--name", "web",
        "--mount", "type=volume,source={{.Service.Name}}-{{.Task.Slot}},target=/data,volume-label=on={{.Node.Hostname}},"
                   "volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-nocopy=true",
        "--mount", "type=volume,target=/anonymous",
        "--mount", "type=volume,source=parts,target=/part,volume-subpath=a/b,readonly",
        "--mount", "type=bind,source=/tmp,target=/host/,bind-propagation=rslave,bind-recursive=disabled,consistency=cached",
        "--mount", "type=tmpfs,target=/scratch,tmpfs-size=1m,tmpfs-mode=0700",
        IMAGE,
    )  # fmt: skip
    manager.settled()
    spec = json.loads(manager.ok("service", "inspect", "web"))[0]["Spec"]
    asked = spec["TaskTemplate"]["ContainerSpec"]["Mounts"]
    assert asked[0]["VolumeOptions"] == {
        "NoCopy": True,
        "Labels": {"on": "{{.Node.Hostname}}"},
        "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs"}},
    }
    assert asked[2]["VolumeOptions"]["Subpath"] == "a/b"
    assert asked[3]["BindOptions"] == {"Propagation": "rslave", "NonRecursive": True}
    assert asked[4]["TmpfsOptions"] == {"SizeBytes": 1 << 20, "Mode": 0o700}

    container = manager.ok("ps", "-q", "--no-trunc").strip()
    found = json.loads(manager.ok("inspect", container))[0]
    anonymous = found["Mounts"][1]["Name"]
    root = "/var/lib/weft/volumes"
    volume = {"Type": "volume", "Driver": "local", "Mode": "z", "Propagation": ""}
    assert found["Mounts"] == [
        {"Name": "web-1", "Source": f"{root}/web-1/_data", "Destination": "/data", "RW": True} | volume,
        {"Name": anonymous, "Source": f"{root}/{anonymous}/_data", "Destination": "/anonymous", "RW": True} | volume,
        {"Name": "parts", "Source": f"{root}/parts/_data", "Destination": "/part", "RW": False} | volume,
        {"Type": "bind", "Source": "/tmp", "Destination": "/host", "Mode": "", "RW": True, "Propagation": "rslave"},
        {"Type": "tmpfs", "Source": "", "Destination": "/scratch", "Mode": "", "RW": True, "Propagation": ""},
    ]  # fmt: skip
    assert found["HostConfig"]["Mounts"][0]["Source"] == "web-1"
    assert found["HostConfig"]["Mounts"][1:] == asked[1:]
    shown = manager.ok("ps", "--no-trunc", "--format", "{{.Mounts}}").strip()
    assert shown == f"web-1,{anonymous},parts,/tmp,"
    for value, is_found in (("web-1", 1), ("/part", 1), ("/tmp", 1), ("data", 0), ("/data/", 0)):
        assert len(manager.ok("ps", "-q", "--filter", f"volume={value}").split()) == is_found, value

    made = json.loads(manager.ok("volume", "inspect", "web-1"))[0]
    assert made["Labels"] == {"on": "node1"}
    assert made["Options"] == {"type": "tmpfs", "device": "tmpfs"}
    assert names(manager, "dangling=true") == []
    in_use = f"remove web-1: volume is in use - [{found['Id']}]"
    assert in_use in manager.refused("volume", "rm", "-f", "web-1")
    since = {"since": 1, "until": int(datetime.now(UTC).timestamp()) + 1}
    events = client.events(decode=True, filters={"type": "volume", "volume": "web-1"}, **since)
    assert [event["Action"] for event in events] == ["create", "mount"]

    manager.ok("service", "rm", "web")
    eventually(lambda: names(manager) == ["parts", "web-1"])
    assert manager.ok("volume", "rm", "web-1", "parts") == "web-1\nparts\n"


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        ("type=npipe,source=p,target=/v", "Mounts[0].Type: mounts of type npipe are not supported by Weft"),
        ("type=image,source=i,target=/v", "Mounts[0].Type: mounts of type image are not supported by Weft"),
        ("type=cluster,source=c,target=/v", "Mounts[0].Type: mounts of type cluster are not supported by Weft"),
        ("type=volume,source=v1,target=/v,volume-driver=rexray", "the volume driver rexray is not supported by Weft"),
        ("type=volume,source=v1,target=v", "invalid mount path: 'v' mount path must be absolute"),
        ("type=bind,source=/a,target=/", "invalid specification: destination can't be '/'"),
        ("type=tmpfs,source=a,target=/v", 'invalid mount config for type "tmpfs": field Source must not be specified'),
    ],
)  # fmt: skip
def test_mounts_that_are_refused(manager: Daemon, mount: str, text: str) -> None:
    argv = ("service", "create", "--name", "web", "--mount", mount, IMAGE)
    assert text in manager.refused(*argv)
    assert manager.ok("service", "ls", "-q") == ""
