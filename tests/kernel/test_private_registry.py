"""A registry that wants a password and shows a certificate of an authority of its own, with the
real registry, skopeo and files: login, pull, digest, and where the password can be read."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.image_store import docker_archive, file, tar_of

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

REGISTRY = "192.0.2.9:5000"
"""Not an address of the loopback network, whose registries need no certificate."""
IMAGE = f"{REGISTRY}/team/demo:1"
PASSWORD = "p4ssw0rd-marker"
HTPASSWD = "me:$2b$04$abcdefghijklmnopqrstuuMBceSMU/6zHd.vIX0bEpUy8v2RiDZxO\n"
"""The password under bcrypt, with few rounds."""
_CONFIG = """
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}/registry}}}}
auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}
http: {{addr: "192.0.2.9:5000", tls: {{certificate: {root}/server.pem, key: {root}/server.key}}}}
"""
_SERVE = """
set -e
root=$1
ip link set lo up
ip address add 192.0.2.9/32 dev lo
mount -t tmpfs none /etc/docker
docker-registry serve $root/registry.yml >$root/registry.log 2>&1 &
server=$!
trap "kill $server" EXIT
until (exec 3<>/dev/tcp/192.0.2.9/5000) 2>/dev/null; do kill -0 $server; sleep 0.05; done
"$2" "$3" "$root"
"""
_ASK = '''
import asyncio, json, subprocess, sys, time
from pathlib import Path
from weft.errors import WeftError
from weft.model.registry import RegistryAuth
from weft.runtime.image_exchange import StoreExchange
from weft.runtime.images import ImageStore

root = Path(sys.argv[1])
registry, image, password = json.loads((root / "names").read_text())
right = RegistryAuth(username="me", password=password)
wrong = RegistryAuth(username="me", password="wr0ng-marker")
certificates = Path("/etc/docker/certs.d") / registry


async def tried(awaited):
    try:
        return await awaited
    except WeftError as error:
        return f"{type(error).__name__}: {error}"


async def pulled(store, auth=None):
    return [line async for line in store.pull(image, auth)]


async def seen_in_commands(pulling):
    """Whether any process has the password in its arguments or environment meanwhile."""
    task = asyncio.ensure_future(pulling)
    seen = looked = 0
    while not task.done():
        for path in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
            try:
                content = path.read_bytes()
            except OSError:
                continue
            looked += b"skopeo" in content
            seen += password.encode() in content or right.basic.encode() in content
        await asyncio.sleep(0.005)
    return await task, seen, looked


async def pushed(store, name, tag, auth=None):
    steps = StoreExchange(store).push(name, tag, auth)
    return [[step.layer, step.text] async for step in steps]


async def pushes(store, said):
    """A new image under two tags of a repository that the registry does not have yet."""
    name = f"{registry}/team/new"
    for tag in ("1", "2"):
        await store.tag(image, f"{name}:{tag}")
    said["push_absent"] = await tried(pushed(store, name, "9", right))
    said["push_no_auth"] = await tried(pushed(store, name, "1"))
    said["push_wrong"] = await tried(pushed(store, name, "1", wrong))
    pushing = pushed(store, name, "1", right)
    (said["push"], said["push_seen"], said["push_looked"]) = await seen_in_commands(pushing)
    said["push_all"] = await pushed(store, name, "", right)
    found = store.find(f"{name}:1")
    said["pushed_digest"] = (await store.distribution(f"{name}:2", right)).digest
    said["id"], said["digests"], said["layers"] = found.id, found.digests, found.layers
    other = ImageStore(root / "other", time.time_ns)
    async for line in other.pull(f"{name}@{said['pushed_digest']}", right):
        pass
    said["pulled_ids"] = [one.id for one in other.all()]
    said["left"] = [str(path) for path in (root / "images" / "tmp").iterdir()]


async def main():
    store = ImageStore(root / "images", time.time_ns)
    said = {}
    said["unknown_login"] = await tried(store.log_in(registry, right))
    said["unknown_pull"] = await tried(pulled(store, right))
    certificates.mkdir(parents=True)
    (certificates / "ca.crt").write_bytes((root / "ca.pem").read_bytes())
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", "--dest-creds", f"me:{password}",
         f"docker-archive:{root}/d.tar", f"docker://{image}"], check=True)
    said["login"] = await tried(store.log_in(f"https://{registry}/v2/", right))
    said["wrong_login"] = await tried(store.log_in(registry, wrong))
    said["no_auth"] = await tried(pulled(store))
    said["wrong_pull"] = await tried(pulled(store, wrong))
    found = await store.distribution(image, right)
    said["digest"], said["platforms"] = found.digest, found.platforms
    said["no_digest"] = await tried(store.distribution(image))
    (said["pull"], said["seen"], said["looked"]) = await seen_in_commands(pulled(store, right))
    await pushes(store, said)
    print(json.dumps(said))
asyncio.run(main())
'''


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """What the store said to each request, and the directory that has all files."""
    if not shutil.which("docker-registry"):
        pytest.skip("needs docker-registry")
    root = tmp_path_factory.mktemp("registry")
    make_certificates(root)
    (root / "htpasswd").write_text(HTPASSWD)
    (root / "registry.yml").write_text(_CONFIG.format(root=root))
    (root / "d.tar").write_bytes(docker_archive("demo", tar_of(file("a", b"12345"))))
    (root / "names").write_text(json.dumps([REGISTRY, IMAGE, PASSWORD]))
    (root / "ask.py").write_text(_ASK)
    Path("/etc/docker").mkdir(exist_ok=True)
    inside = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*inside, "bash", "-c", _SERVE, "serve", str(root), sys.executable, str(root / "ask.py")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    assert done.returncode == 0, done.stderr + (root / "registry.log").read_text()
    return root, json.loads(done.stdout)


def make_certificates(root: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=root)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    (root / "san").write_text("subjectAltName=IP:192.0.2.9\n")
    openssl(
        "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
        "-CAcreateserial", "-extfile", "san", "-out", "server.pem",
    )  # fmt: skip


def test_a_certificate_of_an_unknown_authority_is_refused(
    said: tuple[Path, dict[str, Any]],
) -> None:
    answers = said[1]
    assert answers["unknown_login"] == (
        f'OperationFailed: Get "https://{REGISTRY}/v2/": tls: failed to verify certificate: x509:'
        " certificate signed by unknown authority"
    )
    assert "x509" in answers["unknown_pull"]


def test_a_password_is_asked_of_the_registry(said: tuple[Path, dict[str, Any]]) -> None:
    answers = said[1]
    assert answers["login"] == ""
    assert answers["wrong_login"] == (
        f"OperationFailed: login attempt to https://{REGISTRY}/v2/ failed with status: 401"
        " Unauthorized"
    )


def test_an_image_is_pulled_with_the_password_alone(said: tuple[Path, dict[str, Any]]) -> None:
    answers = said[1]
    for name in ("no_auth", "wrong_pull", "no_digest"):
        assert answers[name].startswith("NotFound: pull access denied"), (name, answers[name])
    assert answers["pull"] == [
        "1: Pulling from team/demo",
        f"Digest: {answers['digest']}",
        f"Status: Downloaded newer image for {IMAGE}",
    ]
    assert answers["platforms"] == [["amd64", "linux", ""]]


def test_an_image_is_pushed_with_the_password_alone(said: tuple[Path, dict[str, Any]]) -> None:
    answers = said[1]
    denied = "Unauthorized: denied: requested access to the resource is denied"
    assert (answers["push_no_auth"], answers["push_wrong"]) == (denied, denied)
    assert answers["push_absent"] == (
        f"NotFound: An image does not exist locally with the tag: {REGISTRY}/team/new"
    )
    digest, layer = answers["pushed_digest"], answers["layers"][0]
    refers = ["", f"The push refers to repository [{REGISTRY}/team/new]"]
    assert [(one, text) for one, text in answers["push"] if one] == [
        (layer, "Preparing"), (layer, "Pushed"),
    ]  # fmt: skip
    assert answers["push"][0] == answers["push_all"][0] == refers
    assert answers["push"][-1][1].startswith(f"1: digest: {digest} size: ")
    texts = [text.partition(" size")[0] for _, text in answers["push_all"]]
    assert texts[1:] == [
        "Preparing", "Pushed", f"1: digest: {digest}",
        "Preparing", "Pushed", f"2: digest: {digest}",
    ]  # fmt: skip
    assert f"{REGISTRY}/team/new@{digest}" in answers["digests"]
    assert answers["pulled_ids"] == [answers["id"]]
    assert answers["left"] == []


def test_the_password_is_in_no_file_and_in_no_command(said: tuple[Path, dict[str, Any]]) -> None:
    root, answers = said
    for looked, seen in (("looked", "seen"), ("push_looked", "push_seen")):
        assert answers[looked] > 0, "no skopeo was seen"
        assert answers[seen] == 0
    for path in (root / "images").rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path
