"""Private registries through the docker command: login, pull, the digest of a service's image."""

import base64
import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.conformance.client import Daemon
from tests.support.fake_images import CREDENTIALS, PRIVATE, hex_of
from weft.api.schema.service import service_json
from weft.model.ids import ServiceId
from weft.model.state import ClusterState
from weft.model.task import Task

REGISTRY = PRIVATE.rstrip("/")
IMAGE, OTHER = f"{PRIVATE}team/app:1", f"{PRIVATE}team/other:1"
PINNED = f"{IMAGE}@sha256:{hex_of(IMAGE)}"
RUN = ("sh", "-c", "exec sleep 3600")


def coded(**fields: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def image_of(manager: Daemon, service: str = "app") -> str:
    form = "{{.Spec.TaskTemplate.ContainerSpec.Image}}"
    return manager.ok("service", "inspect", "--format", form, service).strip()


def tasks(state: ClusterState) -> Iterable[Task]:
    return state.tasks.values()


def logged_in(manager: Daemon, tmp_path: Path) -> tuple[str, str]:
    """Options of the docker command whose user is logged in."""
    config = ("--config", str(tmp_path / "config"))
    user = ("--username", CREDENTIALS.username, "--password", CREDENTIALS.password)
    assert "Login Succeeded" in manager.ok(*config, "login", *user, REGISTRY)
    return config


def test_login_is_asked_of_the_registry(manager: Daemon, tmp_path: Path) -> None:
    logged_in(manager, tmp_path)
    wrong = ("--config", str(tmp_path / "other"), "login", "--username", "me", "--password", "no")
    assert "unauthorized: incorrect username or password" in manager.refused(*wrong, REGISTRY)
    assert not (tmp_path / "other").exists()


def test_pull_with_and_without_a_password(manager: Daemon, tmp_path: Path) -> None:
    config = logged_in(manager, tmp_path)
    assert "pull access denied" in manager.refused("pull", IMAGE)
    assert "Downloaded newer image" in manager.ok(*config, "pull", IMAGE)


def test_a_service_with_a_private_image(
    manager: Daemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    config = logged_in(manager, tmp_path)
    create = ("service", "create", "-d", "--name", "app", "--with-registry-auth")
    manager.ok(*config, *create, IMAGE, *RUN)
    manager.settled("app")
    assert image_of(manager) == PINNED
    # Kept for another image of the same registry; and they are nowhere to be seen.
    manager.ok(*config, "service", "update", "-d", "--image", OTHER, "app")
    manager.settled("app")
    assert image_of(manager) == OTHER
    manager.ok("service", "rollback", "-d", "app")
    manager.settled("app")
    assert image_of(manager) == PINNED
    now = str(int(time.time()) + 1)
    shown = manager.ok("events", "--since", "1", "--until", now)
    shown += manager.ok("service", "inspect", "app")
    shown += manager.ok("inspect", manager.ok("service", "ps", "-q", "app").split()[0])
    auth = base64.b64encode(f"{CREDENTIALS.username}:{CREDENTIALS.password}".encode()).decode()
    for secret in (CREDENTIALS.password, auth):
        assert secret not in shown
        assert secret not in caplog.text
        for path in Path(manager.node.info.data_root).rglob("*"):
            assert not path.is_file() or secret.encode() not in path.read_bytes(), path


def test_a_service_without_the_password(manager: Daemon, tmp_path: Path) -> None:
    done = manager.run("service", "create", "-d", "--name", "app", IMAGE, *RUN)
    assert done.returncode == 0
    said = " ".join(done.stderr.decode().split())
    assert said.startswith(f"image {IMAGE} could not be accessed on a registry to record its")
    assert image_of(manager) == IMAGE
    manager.until(lambda state: any("pull access denied" in t.status.err for t in tasks(state)))
    update = ("service", "update", "-d", "--with-registry-auth", "--no-resolve-image", "app")
    manager.ok(*logged_in(manager, tmp_path), *update)
    manager.settled("app")


def test_a_stack_with_a_private_image(manager: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "stack.json"
    service = {"image": IMAGE, "command": list(RUN)}
    file.write_text(json.dumps({"version": "3.8", "services": {"app": service}}))
    config = logged_in(manager, tmp_path)
    manager.ok(*config, "stack", "deploy", "-d", "--with-registry-auth", "-c", str(file), "s")
    manager.settled("s_app")
    assert image_of(manager, "s_app") == PINNED


@pytest.mark.parametrize(
    ("query", "header", "status", "text"),
    [
        ("registryAuthFrom=other", "", 400, "unsupported registryAuthFrom value: 'other'"),
        ("registryAuthFrom=previous-spec", "", 400, "service does not have a previous spec"),
        ("", "m4rker!!", 400, "it must be an AuthConfig as JSON in base64url"),
        ("", "WyJtNHJrZXIiXQ==", 400, "it must be an AuthConfig as JSON in base64url"),
        ("", coded(registrytoken="m4rker"), 501, "registrytoken is not supported by Weft"),
        ("", coded(username="m4rker" * 4000), 400, ""),
    ],
)
def test_updates_that_are_refused(
    manager: Daemon, query: str, header: str, status: int, text: str
) -> None:
    id = manager.ok("service", "create", "-d", "--no-resolve-image", "--name", "app", IMAGE).strip()
    service = manager.node.swarm().state.services[ServiceId(id)]
    body = json.dumps(service_json(service)["Spec"])
    path = f"http://x/services/{id}/update?version={service.meta.version}&{query}"
    asked = ["curl", "-s", "--unix-socket", str(manager.path), "-X", "POST", path]
    asked += ["-H", f"X-Registry-Auth: {header}", "-H", "Content-Type: application/json"]
    done = subprocess.run(
        [*asked, "-d", body, "-w", "\n%{http_code}"], capture_output=True, text=True, check=True
    )
    answer, _, code = done.stdout.rpartition("\n")
    assert (int(code), text in answer) == (status, True), answer
    assert "m4rker" not in answer
