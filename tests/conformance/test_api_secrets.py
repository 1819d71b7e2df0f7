"""Secrets and configs as the stock docker command and docker-py see them: a real server on a UNIX
socket, behind it a whole node."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import docker
import docker.errors
import docker.types
import pytest

from tests.conformance.client import Daemon, eventually
from tests.support.fake_images import IMAGE
from weft.model.container import MemoryFile

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")

MARKER = "hunter2-and-nothing-else"
KINDS = ("secret", "config")
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(daemon: Daemon, kind: str, name: str, data: str = MARKER, *options: str) -> str:
    return daemon.ok(kind, "create", *options, name, "-", stdin=data.encode()).strip()


def refused(daemon: Daemon, *argv: str, stdin: bytes = b"x") -> str:
    done = daemon.run(*argv, stdin=stdin)
    assert done.returncode != 0
    return done.stderr.decode()


def files(daemon: Daemon) -> list[MemoryFile]:
    """In containers that run, in no order."""
    return [file for each in daemon.node.processes.files.values() for file in each]


def asked(daemon: Daemon, method: str, path: str, body: object) -> tuple[int, str]:
    """What no client of Docker's would ask."""
    done = subprocess.run(
        [
            "curl", "-s", "--unix-socket", str(daemon.path), "-X", method, f"http://x{path}",
            "-H", "Content-Type: application/json", "-d", json.dumps(body), "-w", "\n%{http_code}",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    text, _, status = done.stdout.rpartition("\n")
    return int(status), text


@each_kind
def test_from_creation_to_removal(manager: Daemon, kind: str) -> None:
    id = make(manager, kind, "first", MARKER, "-l", "a=b")
    assert re.fullmatch(r"[0-9a-z]{25}", id)
    make(manager, kind, "second")
    seen = json.loads(manager.ok(kind, "inspect", "first"))[0]
    assert (seen["ID"], seen["Spec"]["Name"], seen["Spec"]["Labels"]) == (id, "first", {"a": "b"})
    data = seen["Spec"].get("Data")
    assert data == (None if kind == "secret" else base64.b64encode(MARKER.encode()).decode())
    for value, found in (
        ("label=a=b", {"first"}), ("label=a", {"first"}), ("label=a=c", set()), ("name=fir", {"first"}),
        (f"id={id[:6]}", {"first"}), ("name=", {"first", "second"}),
    ):  # fmt: skip
        listed = manager.ok(kind, "ls", "--filter", value, "--format", "{{.Name}}").split()
        assert set(listed) == found, value
    assert f"desc = {kind} first already exists" in refused(manager, kind, "create", "first", "-")
    manager.ok(kind, "rm", id[:8])
    assert f"{kind} first not found" in manager.refused(kind, "rm", "first")
    manager.ok(kind, "rm", "second")
    assert manager.ok(kind, "ls", "-q") == ""


@each_kind
def test_what_is_refused(manager: Daemon, kind: str) -> None:
    limit = {"secret": 512000, "config": 1024000}[kind]
    said = f"{kind} data must be larger than 0 and less than {limit} bytes"
    assert said in refused(manager, kind, "create", "big", "-", stdin=b"x" * limit)
    assert "invalid name, only 64" in refused(manager, kind, "create", "no/name", "-")
    assert "is not supported by Weft, only golang is" in refused(
        manager, kind, "create", "--template-driver", "jinja", "a", "-"
    )
    text = refused(
        manager, kind, "create", "--template-driver", "golang", "a", "-", stdin=b"{{marker}}"
    )
    assert f"cannot create {kind} a: " in text
    assert ("marker" in text) == (kind == "config")
    path, name = f"/{kind}s/create", {"Name": "a"}
    assert asked(manager, "POST", path, name)[0] == 400
    for data in (f"{MARKER}!", [MARKER], {"a": MARKER}, 4711):
        status, text = asked(manager, "POST", path, name | {"Data": data})
        assert status == 400
        assert "$.Data" in text
        assert "hunter2" not in text
        assert "4711" not in text
    status, text = asked(manager, "POST", path, name | {"Driver": {"Name": "vault"}})
    assert (status, "secret driver 'vault' is not supported" in text) == (501, True)
    templated = name | {"Data": "eA==", "Templating": {"Name": "golang"}}
    status, text = asked(manager, "POST", f"/v1.36{path}", templated)
    assert (status, "templating is not supported on the specified API version: 1.36" in text) == (
        400,
        True,
    )
    assert asked(manager, "POST", f"/v1.37{path}", templated)[0] == 201
    assert asked(manager, "POST", f"/v1.37{path}", templated)[0] == 409


@each_kind
def test_only_labels_can_be_updated(manager: Daemon, kind: str) -> None:
    make(manager, kind, "a")
    version = json.loads(manager.ok(kind, "inspect", "a"))[0]["Version"]["Index"]
    path, data = f"/{kind}s/a/update?version=", base64.b64encode(MARKER.encode()).decode()
    only = "only updates to Labels are allowed"
    for body in ({"Name": "b"}, {"Name": "a", "Data": base64.b64encode(b"other").decode()}):
        status, text = asked(manager, "POST", f"{path}{version}", body)
        assert (status, only in text) == (400, True)
    new = {"Name": "a", "Labels": {"x": "y"}, "Data": data}
    assert asked(manager, "POST", f"{path}{version}", new)[0] == 200
    status, text = asked(manager, "POST", f"{path}{version}", new)
    assert (status, "update out of sequence" in text) == (500, True)
    assert json.loads(manager.ok(kind, "inspect", "a"))[0]["Spec"]["Labels"] == {"x": "y"}


def test_a_node_outside_a_swarm_has_none(daemon: Daemon) -> None:
    for kind in KINDS:
        assert "This node is not a swarm manager." in daemon.refused(kind, "ls")
        assert "This node is not a swarm manager." in refused(daemon, kind, "create", "a", "-")


def test_a_service_from_its_secrets_to_other_ones(manager: Daemon) -> None:
    first = make(manager, "secret", "one")
    make(manager, "config", "app", 'port=1 pw={{secret "pw"}}', "--template-driver", "golang")
    manager.ok(
        "service", "create", "-d", "--name", "web", "--replicas", "2", "--secret", "one",
        "--secret", "source=one,target=pw,uid=33,gid=44,mode=0400",
        "--config", "source=app,target=/etc/app.conf", IMAGE,
    )  # fmt: skip
    manager.call(manager.node.until_running("web"))
    seen = {(f.path, f.data, f.uid, f.gid, f.mode) for f in files(manager)}
    assert seen == {
        ("/run/secrets/one", MARKER.encode(), 0, 0, 0o444),
        ("/run/secrets/pw", MARKER.encode(), 33, 44, 0o400),
        ("/etc/app.conf", f"port=1 pw={MARKER}".encode(), 0, 0, 0o444),
    }
    spec = json.loads(manager.ok("service", "inspect", "web"))[0]["Spec"]["TaskTemplate"]
    # The docker command sends them in any order.
    assert {
        "File": {"Name": "pw", "UID": "33", "GID": "44", "Mode": 0o400},
        "SecretID": first,
        "SecretName": "one",
    } in spec["ContainerSpec"]["Secrets"]
    in_use = "is in use by the following service: web"
    assert f"secret 'one' {in_use}" in manager.refused("secret", "rm", "one")
    assert f"config 'app' {in_use}" in manager.refused("config", "rm", "app")
    make(manager, "secret", "two", "other")
    manager.ok(
        "service", "update", "-d", "--secret-rm", "one", "--secret-add", "source=two,target=pw", "web",
    )  # fmt: skip
    manager.call(manager.node.until_running("web"))
    eventually(lambda: {f.data for f in files(manager)} == {b"other", b"port=1 pw=other"})
    manager.ok("secret", "rm", "one")
    shown = [
        manager.ok("service", "inspect", "web"), manager.ok("service", "ps", "--no-trunc", "web"),
        *(manager.ok("inspect", id) for id in manager.ok("ps", "-aq").split()),
    ]  # fmt: skip
    assert MARKER not in "".join(shown)
    manager.ok("service", "rm", "web")
    eventually(lambda: not manager.node.processes.files)
    manager.ok("secret", "rm", "two")
    manager.ok("config", "rm", "app")


def test_references_are_checked(manager: Daemon) -> None:
    id = make(manager, "secret", "one")
    file = {"Name": "t", "UID": "0", "GID": "0", "Mode": 0o444}
    good = {"File": file, "SecretID": id, "SecretName": "one"}

    def create(*secrets: object) -> tuple[int, str]:
        container = {"Image": IMAGE, "Secrets": secrets}
        return asked(
            manager, "POST", "/services/create",
            {"Name": "web", "TaskTemplate": {"ContainerSpec": container}},
        )  # fmt: skip

    for secrets, said in (
        ([good | {"SecretName": "two"}], "secret not found: two"),
        ([good | {"SecretID": "x"}], "secret not found: one"),
        ([good, good], "secret references 'one' and 'one' have a conflicting target: 't'"),
        ([good | {"File": None}], "malformed secret reference, no target provided"),
    ):
        status, text = create(*secrets)
        assert (status, said in text) == (400, True), text
    assert create(good)[0] == 201


def test_a_stack_brings_its_secrets_and_takes_them_away(manager: Daemon, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(MARKER)
    (tmp_path / "app").write_text("port=1")
    (tmp_path / "stack.yml").write_text(f"""
services:
  web:
    image: {IMAGE}
    secrets: [pw]
    configs: [{{source: app, target: /etc/app.conf}}]
secrets: {{pw: {{file: ./pw, labels: {{x: "y"}}}}}}
configs: {{app: {{file: ./app}}}}
""")
    for _ in range(2):
        manager.ok("stack", "deploy", "-d", "-c", str(tmp_path / "stack.yml"), "st")
    manager.call(manager.node.until_running("st_web"))
    assert {(f.path, f.data) for f in files(manager)} == {
        ("/run/secrets/pw", MARKER.encode()),
        ("/etc/app.conf", b"port=1"),
    }
    (tmp_path / "pw").write_text("changed")
    assert "only updates to Labels are allowed" in manager.refused(
        "stack", "deploy", "-d", "-c", str(tmp_path / "stack.yml"), "st"
    )
    manager.ok("stack", "rm", "st")
    assert manager.ok("secret", "ls", "-q") + manager.ok("config", "ls", "-q") == ""


def test_docker_py(manager: Daemon) -> None:
    client = docker.DockerClient(base_url=f"unix://{manager.path}", timeout=60)
    secret = client.secrets.create(name="one", data=MARKER.encode(), labels={"a": "b"})
    config = client.configs.create(name="app", data=b"port=1")
    assert [s.id for s in client.secrets.list(filters={"label": "a=b"})] == [secret.id]
    found = client.configs.get(config.id)
    assert base64.b64decode(found.attrs["Spec"]["Data"]) == b"port=1"
    service = client.services.create(
        IMAGE,
        name="web",
        secrets=[docker.types.SecretReference(secret.id, "one")],
        configs=[docker.types.ConfigReference(config.id, "app", filename="/etc/app.conf")],
    )
    manager.call(manager.node.until_running("web"))
    assert {f.path for f in files(manager)} == {"/run/secrets/one", "/etc/app.conf"}
    with pytest.raises(docker.errors.APIError) as caught:
        secret.remove()
    assert caught.value.response.status_code == 400
    service.remove()
    secret.remove()
    config.remove()
    client.close()


def test_events_name_secrets_and_configs(manager: Daemon) -> None:
    shown = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Scope}}"
    kinds = ("--filter", "type=secret", "--filter", "type=config")
    since = ("--since", "2020-01-01T00:00:00Z", "--until", "1s")
    for kind in KINDS:
        make(manager, kind, "a")
        version = json.loads(manager.ok(kind, "inspect", "a"))[0]["Version"]["Index"]
        new = {"Name": "a", "Labels": {"x": "y"}}
        assert asked(manager, "POST", f"/{kind}s/a/update?version={version}", new)[0] == 200
        manager.ok(kind, "rm", "a")
    wanted = [f"{k} {what} a swarm" for k in KINDS for what in ("create", "update", "remove")]
    eventually(
        lambda: manager.ok("events", *since, *kinds, "--format", shown).splitlines() == wanted
    )


def test_a_worker_shows_and_makes_none(worker: Daemon) -> None:
    said = "Worker nodes can't be used to view or modify cluster state"
    for kind in KINDS:
        assert said in worker.refused(kind, "ls")
        assert said in refused(worker, kind, "create", "a", "-")
        assert said in worker.refused(kind, "rm", "a")
