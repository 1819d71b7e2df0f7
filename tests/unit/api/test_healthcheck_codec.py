"""Health checks in JSON: of specs, images and containers, and the health of a container."""

from typing import Any

import pytest

from weft.api.schema.common import encode
from weft.api.schema.container import (
    ContainerContext,
    container_json,
    container_summary_json,
    status_text,
)
from weft.api.schema.decoding import decode
from weft.api.schema.image import image_json
from weft.api.schema.service import spec_from, spec_json
from weft.api.schema.service_wire import ServiceWire
from weft.api.versions import later_fields
from weft.errors import InvalidArgument
from weft.model.container import Container, ContainerConfig, ContainerState, Image, ImageConfig
from weft.model.health import Health, HealthCheck, HealthStatus, ProbeResult
from weft.model.ids import ContainerId
from weft.model.meta import SECOND
from weft.model.service import ContainerSpec

WIRE = {
    "Test": ["CMD-SHELL", "true"],
    "Interval": SECOND,
    "Timeout": 2 * SECOND,
    "StartPeriod": 3 * SECOND,
    "StartInterval": 4 * SECOND,
    "Retries": 5,
}
CHECK = HealthCheck(
    test=("CMD-SHELL", "true"),
    interval=SECOND,
    timeout=2 * SECOND,
    start_period=3 * SECOND,
    start_interval=4 * SECOND,
    retries=5,
)


def read(check: Any, later: frozenset[str] = frozenset()) -> HealthCheck | None:
    wire = {"TaskTemplate": {"ContainerSpec": {"Image": "busybox", "Healthcheck": check}}}
    spec = spec_from(decode(encode(wire), ServiceWire, later=later), lambda _: None)
    printed = spec_json(spec)["TaskTemplate"]["ContainerSpec"]
    again = {"TaskTemplate": {"ContainerSpec": printed}}
    assert spec_from(decode(encode(again), ServiceWire), lambda _: None) == spec
    return spec.task.container.healthcheck


def test_a_specs_check_is_read_and_printed() -> None:
    assert read(WIRE) == CHECK
    assert read({}) == HealthCheck()
    assert read({"Test": ["NONE"]}) == HealthCheck(test=("NONE",))
    assert read(None) is None


def test_the_start_interval_came_later() -> None:
    old = read(WIRE, later_fields("ServiceWire", (1, 43)))
    assert old is not None
    assert (old.start_interval, old.retries) == (0, 5)
    assert read(WIRE, later_fields("ServiceWire", (1, 44))) == CHECK


@pytest.mark.parametrize(
    ("check", "path"),
    [
        ({"Test": "true"}, "Healthcheck.Test"),
        ({"Test": [1]}, "Healthcheck.Test[0]"),
        ({"Interval": "30s"}, "Healthcheck.Interval"),
        ({"Retries": 2**70}, "Healthcheck.Retries"),
        ([], "Healthcheck"),
    ],
)
def test_an_unreadable_check_is_refused_with_its_path(check: Any, path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(check)
    assert f"$.TaskTemplate.ContainerSpec.{path}" in str(caught.value)


def container(state: ContainerState, check: HealthCheck | None = CHECK) -> Container:
    spec = ContainerSpec(image="busybox")
    config = ContainerConfig(
        id=ContainerId("a" * 64), name="c", spec=spec, hostname="c", namespace=None
    )
    return Container(
        config=config, image=f"sha256:{0:064x}", args=("x",), healthcheck=check, state=state
    )


def test_a_container_shows_its_check_and_its_health() -> None:
    result = ProbeResult(start=SECOND, end=2 * SECOND, exit_code=1, output="no\n")
    health = Health(status=HealthStatus.HEALTHY, failing_streak=1, log=(result,))
    running = container(ContainerState.RUNNING)
    shown = container_json(running, ContainerContext(health=health))
    assert shown["State"]["Health"] == {
        "Status": "healthy",
        "FailingStreak": 1,
        "Log": [
            {
                "Start": "1970-01-01T00:00:01Z",
                "End": "1970-01-01T00:00:02Z",
                "ExitCode": 1,
                "Output": "no\n",
            }
        ],
    }
    assert shown["Config"]["Healthcheck"] == {**WIRE, "Test": ("CMD-SHELL", "true")}
    summary = container_summary_json(running, ContainerContext(health=health), SECOND)
    assert summary["Status"] == "Up 1 second (healthy)"
    bare = container_json(container(ContainerState.RUNNING, None), ContainerContext())
    assert "Health" not in bare["State"]
    assert "Healthcheck" not in bare["Config"]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (HealthStatus.STARTING, "Up 5 seconds (health: starting)"),
        (HealthStatus.HEALTHY, "Up 5 seconds (healthy)"),
        (HealthStatus.UNHEALTHY, "Up 5 seconds (unhealthy)"),
    ],
)
def test_the_status_of_a_running_container_ends_with_its_health(
    status: HealthStatus, text: str
) -> None:
    health = Health(status=status)
    assert status_text(container(ContainerState.RUNNING), 5 * SECOND, health) == text
    exited = status_text(container(ContainerState.EXITED), 5 * SECOND, health)
    assert exited == "Exited (0) 5 seconds ago"


def test_an_image_shows_its_check_and_its_shell() -> None:
    config = ImageConfig(healthcheck=CHECK, shell=("/bin/bash", "-c"))
    shown = image_json(Image(id=f"sha256:{0:064x}", config=config))["Config"]
    assert (shown["Healthcheck"]["Retries"], shown["Shell"]) == (5, ["/bin/bash", "-c"])
    bare = image_json(Image(id=f"sha256:{0:064x}"))["Config"]
    assert not {"Healthcheck", "Shell"} & bare.keys()
