"""Health checks as the docker command and docker-py have them: probes are real commands on this
machine, behind the API of a whole node."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import docker
import docker.errors
import docker.types
import msgspec
import pytest

from tests.conformance.client import Daemon, eventually
from tests.support.fake_images import IMAGE
from weft.model.health import HealthCheck

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")

QUICK = (
    "--health-interval", "50ms", "--health-timeout", "5s", "--health-retries", "2",
    "--restart-condition", "none", "--stop-grace-period", "1s",
)  # fmt: skip
SECOND = 10**9
Json = dict[str, Any]


def create(manager: Daemon, *options: str) -> str:
    return manager.ok(
        "service", "create", "-d", "-q", "--no-resolve-image", "--name", "web", *options, IMAGE
    ).strip()


def inspect(manager: Daemon, *options: str) -> Any:
    return json.loads(manager.ok(*options))[0]


def tasks(manager: Daemon) -> str:
    return manager.ok(
        "service", "ps", "web", "--no-trunc", "--format", "{{.CurrentState}} {{.Error}}"
    )


def test_a_task_waits_for_its_health_and_fails_without_it(manager: Daemon, tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    sick.touch()
    create(manager, "--health-cmd", f"echo looked; ! test -e {sick}",
           "--health-start-period", "10m", "--health-start-interval", "50ms", *QUICK)  # fmt: skip
    spec = inspect(manager, "service", "inspect", "web")["Spec"]["TaskTemplate"]["ContainerSpec"]
    assert spec["Healthcheck"] == {
        "Test": ["CMD-SHELL", f"echo looked; ! test -e {sick}"],
        "Interval": 50_000_000,
        "Timeout": 5 * SECOND,
        "StartPeriod": 600 * SECOND,
        "StartInterval": 50_000_000,
        "Retries": 2,
    }
    id = eventually(lambda: manager.ok("ps", "-q", "--filter", "health=starting").strip())
    assert "(health: starting)" in manager.ok("ps", "--format", "{{.Status}}")
    assert tasks(manager).startswith("Starting")
    assert manager.ok("service", "ls", "--format", "{{.Replicas}}") == "0/1\n"
    health = eventually(lambda: inspect(manager, "inspect", id)["State"]["Health"]["Log"])
    assert (health[0]["ExitCode"], health[0]["Output"]) == (1, "looked\n")
    sick.unlink()
    eventually(lambda: tasks(manager).startswith("Running"))
    assert manager.ok("service", "ls", "--format", "{{.Replicas}}") == "1/1\n"
    assert "(healthy)" in manager.ok("ps", "--filter", "health=healthy", "--format", "{{.Status}}")
    assert manager.ok("ps", "-q", "--filter", "health=none") == ""
    state = inspect(manager, "inspect", id)["State"]["Health"]
    assert (state["Status"], state["FailingStreak"]) == ("healthy", 0)
    eventually(lambda: len(inspect(manager, "inspect", id)["State"]["Health"]["Log"]) == 5)
    sick.touch()
    error = eventually(lambda: re.search(r"Failed.*unhealthy container: looked", tasks(manager)))
    assert "task: non-zero exit (143): dockerexec: unhealthy container" in error[0]
    assert "(unhealthy)" not in manager.ok("ps", "-a", "--format", "{{.Status}}")
    assert inspect(manager, "inspect", id)["State"]["Health"]["Status"] == "unhealthy"
    told = manager.ok("events", "--since", "1", "--until", f"{time.time():.9f}", "--filter", "event=health_status",
                      "--format", "{{.Action}} {{.Actor.ID}}")  # fmt: skip
    mine = [line.partition(" " + id)[0] for line in told.splitlines() if f" {id}" in line]
    assert mine == ["health_status: healthy", "health_status: unhealthy"], told


def test_an_image_has_a_check_that_a_service_changes_or_switches_off(manager: Daemon) -> None:
    store = manager.node.image_store
    check = HealthCheck(test=("CMD", "false"), interval=50_000_000, retries=600)
    (image,) = store.images
    store.images[0] = msgspec.structs.replace(
        image, config=msgspec.structs.replace(image.config, healthcheck=check)
    )
    shown = inspect(manager, "image", "inspect", IMAGE)["Config"]["Healthcheck"]
    assert shown == {"Test": ["CMD", "false"], "Interval": 50_000_000, "Retries": 600}
    create(manager, "--health-timeout", "9s")
    id = eventually(lambda: manager.ok("ps", "-q", "--filter", "health=starting").strip())
    merged = inspect(manager, "inspect", id)["Config"]["Healthcheck"]
    assert merged == shown | {"Timeout": 9 * SECOND}
    manager.ok("service", "update", "-d", "-q", "--no-healthcheck", "web")
    eventually(lambda: tasks(manager).startswith("Running"))
    id = eventually(lambda: manager.ok("ps", "-q", "--filter", "health=none").strip())
    assert inspect(manager, "inspect", id)["Config"]["Healthcheck"]["Test"] == ["NONE"]
    assert "Health" not in inspect(manager, "inspect", id)["State"]


def test_a_stack_file_has_checks(manager: Daemon, tmp_path: Path) -> None:
    def service(check: Json) -> Json:
        return {"image": IMAGE, "healthcheck": check}

    services = {
        "checked": service({"test": ["CMD", "true"], "interval": "50ms", "start_period": "1s"}),
        "plain": service({"disable": True}),
        "late": service({"test": "exit 1", "interval": "10m", "retries": 4}),
    }
    file = tmp_path / "stack.json"
    file.write_text(json.dumps({"version": "3.8", "services": services}))
    manager.ok("stack", "deploy", "--detach", "--resolve-image", "never", "-c", str(file), "s")
    specs = {
        name: inspect(manager, "service", "inspect", f"s_{name}")["Spec"]["TaskTemplate"]
        for name in services
    }
    checks = {name: spec["ContainerSpec"]["Healthcheck"] for name, spec in specs.items()}
    assert checks["checked"] == {
        "Test": ["CMD", "true"], "Interval": 50_000_000, "StartPeriod": SECOND,
    }  # fmt: skip
    assert checks["plain"] == {"Test": ["NONE"]}
    assert checks["late"]["Test"] == ["CMD-SHELL", "exit 1"]
    wanted = {"s_checked 1/1", "s_plain 1/1", "s_late 0/1"}
    list_them = ("stack", "services", "s", "--format", "{{.Name}} {{.Replicas}}")
    eventually(lambda: set(manager.ok(*list_them).splitlines()) == wanted)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ({"test": ["NOPE", "x"]}, "Unknown healthcheck type 'NOPE'"),
        ({"test": ["CMD"]}, "CMD has no command"),
        ({"test": ["CMD", "true"], "interval": 5}, "Interval in HealthConfig cannot be less than"),
        ({"test": ["CMD", "true"], "retries": -1}, "Retries in HealthConfig cannot be negative"),
    ],
)
def test_docker_py_is_told_what_is_wrong(manager: Daemon, check: dict[str, Any], text: str) -> None:
    client = docker.DockerClient(base_url=f"unix://{manager.path}", timeout=60)
    try:
        with pytest.raises(docker.errors.APIError, match=re.escape(text)):
            client.services.create(IMAGE, healthcheck=docker.types.Healthcheck(**check))
    finally:
        client.close()


def test_docker_py_sees_the_health_of_a_container(manager: Daemon) -> None:
    client = docker.DockerClient(base_url=f"unix://{manager.path}", timeout=60)
    try:
        check = docker.types.Healthcheck(test="exit 0", interval=50_000_000)
        client.services.create(IMAGE, name="web", healthcheck=check)
        (container,) = eventually(lambda: client.containers.list(filters={"health": "healthy"}))
        assert container.health == "healthy"
        assert container.attrs["State"]["Health"]["Log"][0]["ExitCode"] == 0
    finally:
        client.close()
