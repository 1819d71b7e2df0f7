"""Images pulled from a registry by the image store, with the real file system and skopeo: a
registry is believed no more than an archive."""

import gzip
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.image_store import (
    LAYER_TYPE,
    MANIFEST_TYPE,
    PATIENCE,
    digest,
    docker_archive,
    file,
    layer_of,
    left_over,
    tar_of,
)
from weft.runtime.images import ImageStore

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


_REGISTRY = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: 127.0.0.1:5000}}
"""
_PULL = """
import asyncio, sys, time
from pathlib import Path
from weft.errors import WeftError
from weft.runtime.images import ImageStore
async def main():
    store = ImageStore(Path(sys.argv[1]), time.time_ns)
    for reference in sys.argv[2:]:
        try:
            async for line in store.pull(reference):
                print(line)
        except WeftError as error:
            print(f"{type(error).__name__}: {error}")
asyncio.run(main())
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[list[str]]:
    """A registry in a network namespace of its own; the start of a command line that runs something
    in it."""
    if not shutil.which("docker-registry"):
        pytest.skip("needs docker-registry")
    name = f"rt-registry-{os.getpid()}"
    (tmp_path / "registry.yml").write_text(_REGISTRY.format(root=tmp_path / "registry"))
    inside = ["ip", "netns", "exec", name]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        command = [*inside, "docker-registry", "serve", str(tmp_path / "registry.yml")]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                wait_for_registry(inside)
                yield inside
            finally:
                server.kill()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def wait_for_registry(inside: list[str]) -> None:
    probe = "import socket; socket.create_connection(('127.0.0.1', 5000), 1)"
    deadline = time.monotonic() + PATIENCE
    while subprocess.run(
        [*inside, sys.executable, "-c", probe], capture_output=True, check=False
    ).returncode:
        assert time.monotonic() < deadline, "the registry does not answer"
        time.sleep(0.05)


def put_into_registry(
    registry: list[str], name: str, tag: str, manifest: bytes, kind: str, *blobs: bytes
) -> None:
    """What no tool would push."""
    script = """
import http.client, hashlib, sys, pickle
name, tag, manifest, kind, blobs = pickle.load(sys.stdin.buffer)
def ask(method, path, body=b"", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", 5000)
    connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
    answer = connection.getresponse()
    assert answer.status < 300, answer.read()
    return answer.headers.get("Location", "")
for blob in blobs:
    place = ask("POST", f"/v2/{name}/blobs/uploads/").partition("127.0.0.1:5000")[2]
    digest = hashlib.sha256(blob).hexdigest()
    ask("PUT", f"{place}&digest=sha256:{digest}", blob, Content_Type="application/octet-stream")
ask("PUT", f"/v2/{name}/manifests/{tag}", manifest, Content_Type=kind)
"""
    data = pickle.dumps((name, tag, manifest, kind, blobs))
    subprocess.run([*registry, sys.executable, "-c", script], input=data, check=True)


def pull(registry: list[str], root: Path, *references: str) -> list[str]:
    command = [*registry, sys.executable, "-c", _PULL, str(root), *references]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_what_a_registry_says_is_believed_no_more_than_an_archive(
    registry: list[str], tmp_path: Path
) -> None:
    good, climbing = tar_of(file("good")), tar_of(file(".wh..."))
    run: Any
    for tag, layer, run in (
        ("good", good, {}),
        ("layer", climbing, {}),
        ("command", good, {"Cmd": ["a", 5]}),
        ("labels", good, {"Labels": []}),
    ):
        config = json.dumps(
            {"os": "linux", "rootfs": {"diff_ids": [digest(layer)]}, "config": run}
        ).encode()
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": LAYER_TYPE, "digest": digest(layer), "size": len(layer)}],
        }  # fmt: skip
        put_into_registry(
            registry, "demo", tag, json.dumps(manifest).encode(), MANIFEST_TYPE, config, layer
        )
    entry = {"mediaType": MANIFEST_TYPE, "digest": digest(json.dumps(manifest).encode()), "size": 1}
    foreign = {
        "schemaVersion": 2,
        "manifests": [{**entry, "platform": {"os": "linux", "architecture": "s390x"}}],
    }
    put_into_registry(
        registry,
        "demo",
        "foreign",
        json.dumps(foreign).encode(),
        "application/vnd.oci.image.index.v1+json",
    )
    tags = ("good", "layer", "command", "labels", "foreign")
    said = pull(registry, tmp_path / "images", *(f"127.0.0.1:5000/demo:{tag}" for tag in tags))
    errors = [
        line for line in said if line.startswith(("InvalidArgument", "NotFound", "OperationFailed"))
    ]
    assert [error.partition(": ")[2].partition(" ")[0] for error in errors] == [
        "cannot",
        "cannot",
        "cannot",
        "no",
    ]
    for error, words in zip(
        errors,
        ("invalid whiteout name", "Cmd[1]", "Labels", "no matching manifest for linux/"),
        strict=True,
    ):
        assert words in error
    assert [image.tags for image in ImageStore(tmp_path / "images", time.time_ns).all()] == [
        ("127.0.0.1:5000/demo:good",)
    ]
    assert len(left_over(tmp_path)) == 3


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_layers_are_pulled(
    registry: list[str], tmp_path: Path, compression: str
) -> None:
    (tmp_path / "d.tar").write_bytes(docker_archive("demo", tar_of(file("a", b"12345"))))
    name = "127.0.0.1:5000/demo"
    push = [
        "skopeo",
        "--insecure-policy",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        "--format",
        "oci",
    ]
    push += [
        "--dest-compress-format",
        compression,
        f"docker-archive:{tmp_path}/d.tar",
        f"docker://{name}:1",
    ]
    subprocess.run([*registry, *push], check=True)
    assert "Downloaded newer image" in pull(registry, tmp_path / "images", f"{name}:1")[-1]
    assert (
        layer_of(ImageStore(tmp_path / "images", time.time_ns), f"{name}:1") / "a"
    ).read_bytes() == b"12345"
    inspect = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}:1"]
    raw = subprocess.run([*registry, *inspect], check=True, capture_output=True).stdout
    assert json.loads(raw)["layers"][0]["mediaType"].endswith(compression), (
        "the registry has it in that form"
    )


def test_a_pull_mends_an_image_whose_layer_is_lost(registry: list[str], tmp_path: Path) -> None:
    (tmp_path / "d.tar").write_bytes(docker_archive("demo", tar_of(file("a", b"12345"))))
    name = "127.0.0.1:5000/demo"
    push = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]
    subprocess.run(
        [*registry, *push, f"docker-archive:{tmp_path}/d.tar", f"docker://{name}:1"], check=True
    )
    for _ in range(2):
        assert "Downloaded newer image" in pull(registry, tmp_path / "images", f"{name}:1")[-1]
        store = ImageStore(tmp_path / "images", time.time_ns)
        assert (layer_of(store, f"{name}:1") / "a").read_bytes() == b"12345"
        shutil.rmtree(layer_of(store, f"{name}:1"))


def test_a_pull_that_the_disk_has_no_room_for_leaves_nothing(
    registry: list[str], small_disk: Path
) -> None:
    """Before: skopeo finds no room, or is ended when there is none; after: the layers have none."""
    blobs = (
        tar_of(file("noise", random.Random(1).randbytes(70 << 20))),
        gzip.compress(tar_of(file("zeros", bytes(100 << 20))), 1),
    )
    for tag, blob in zip(("noise", "zeros"), blobs, strict=True):
        config = json.dumps({"os": "linux", "rootfs": {"diff_ids": [digest(b"")]}}).encode()
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": LAYER_TYPE, "digest": digest(blob), "size": len(blob)}],
        }  # fmt: skip
        put_into_registry(
            registry, "demo", tag, json.dumps(manifest).encode(), MANIFEST_TYPE, config, blob
        )
        said = pull(registry, small_disk / "images", f"127.0.0.1:5000/demo:{tag}")
        assert said[-1].startswith("OperationFailed: cannot "), said
        assert re.search("no space left|more room than there is", said[-1]), said
        assert left_over(small_disk) == []


def test_an_image_is_pulled_from_a_registry(registry: list[str], tmp_path: Path) -> None:
    (tmp_path / "d.tar").write_bytes(docker_archive("demo", tar_of(file("a", b"12345"))))
    name = "127.0.0.1:5000/team/demo"
    push = [
        "skopeo",
        "--insecure-policy",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        f"docker-archive:{tmp_path}/d.tar",
        f"docker://{name}:1",
    ]
    subprocess.run([*registry, *push], check=True)
    references = [
        f"{name}:1",
        f"{name}:1",
        f"{name}:2",
        "127.0.0.1:5000/absent",
        "127.0.0.1:9/team/demo",
    ]
    output = subprocess.run(
        [*registry, sys.executable, "-c", _PULL, str(tmp_path / "images"), *references],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    digest = output[1].removeprefix("Digest: ")
    assert output[:3] == [
        "1: Pulling from team/demo",
        f"Digest: {digest}",
        f"Status: Downloaded newer image for {name}:1",
    ]
    assert output[5] == f"Status: Image is up to date for {name}:1"
    assert (
        output[6]
        == f"NotFound: manifest for {name}:2 not found: manifest unknown: manifest unknown"
    )
    assert output[7].startswith("NotFound: manifest for 127.0.0.1:5000/absent:latest not found")
    assert output[8].startswith("OperationFailed: cannot pull 127.0.0.1:9/team/demo:latest: ")
    assert "connection refused" in output[8]
    image = ImageStore(tmp_path / "images", time.time_ns).find(f"{name}@{digest}")
    assert (image.tags, image.digests) == ((f"{name}:1",), (f"{name}@{digest}",))
