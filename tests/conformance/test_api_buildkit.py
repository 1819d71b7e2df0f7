"""What buildx asks for when it makes a builder of the driver docker-container, request by request as
buildx 0.29 sends them to an engine whose cgroup driver is cgroupfs. The builder itself is a stand-in:
`cat` in place of `buildctl dial-stdio`, over which buildx speaks with BuildKit."""

import io
import shutil
import tarfile
from typing import Any

import docker
import pytest

from tests.conformance.client import Daemon
from tests.support.fake_images import IMAGE

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")

NAME = "buildx_buildkit_bk0"
CREATE: dict[str, Any] = {
    "Env": None, "Cmd": ["sleep", "1000"], "Image": IMAGE, "Volumes": None, "Entrypoint": None,
    "OnBuild": None, "Labels": None,
    "HostConfig": {
        "LogConfig": {"Type": "", "Config": None}, "NetworkMode": "host", "Privileged": True,
        "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0},
        "CgroupParent": "/docker/buildx", "Init": True, "ConsoleSize": [0, 0], "Links": None,
        "OomKillDisable": None, "PidsLimit": None, "MemorySwappiness": None, "Ulimits": None,
        "DeviceRequests": None, "MaskedPaths": None, "ReadonlyPaths": None,
        "Mounts": [
            {"Type": "volume", "Source": f"{NAME}_state", "Target": "/var/lib/buildkit"}
        ],
    },
    "NetworkingConfig": {"EndpointsConfig": None},
}  # fmt: skip
"""But for the network, which is the host's here, the upload's path, and fields that are empty."""


def archive(path: str, data: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        info = tarfile.TarInfo(path)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def test_a_builder_is_made_filled_started_and_spoken_to(daemon: Daemon) -> None:
    client = docker.APIClient(base_url=f"unix://{daemon.path}", version="auto")
    assert client.info()["CgroupDriver"] == "cgroupfs"
    made = client._post_json(client._url("/containers/create"), CREATE, params={"name": NAME})
    assert made.status_code == 201, made.text
    assert client.inspect_container(NAME)["HostConfig"]["CgroupParent"] == "/docker/buildx"
    assert client.put_archive(NAME, "/", archive("etc/buildkit/buildkitd.toml", b"debug = true\n"))
    client.start(NAME)

    exec = client.exec_create(NAME, ["cat"], stdin=True)["Id"]
    stream = client.exec_start(exec, socket=True)
    with stream, stream._sock as connection, connection.makefile("rb") as answers:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\n")
        assert answers.read(8 + 18) == b"\x01\0\0\0\0\0\0\x12PRI * HTTP/2.0\r\n\r\n"
    daemon.ok("rm", "-f", "-v", NAME)
    daemon.ok("volume", "rm", f"{NAME}_state")
    client.close()


@pytest.mark.parametrize("path", ["/build", "/session", "/grpc"])
def test_who_asks_the_daemon_to_build_is_told_how_to(daemon: Daemon, path: str) -> None:
    client = docker.APIClient(base_url=f"unix://{daemon.path}", version="auto")
    answer = client._post(client._url(path))
    assert answer.status_code == 501
    assert "docker buildx create --name weft --driver docker-container" in answer.json()["message"]
    client.close()
