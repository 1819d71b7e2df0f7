"""Health checks: as a service's container spec has them, as images and containers show them, and
the health of a container."""

from typing import Annotated

from msgspec import Meta

from weft.api.schema.common import Json, Signed, Wire, omit_empty, rfc3339
from weft.model.health import Health, HealthCheck


class HealthCheckWire(Wire, frozen=True):
    """Nanoseconds. `control` refuses negative numbers, with Docker Swarm's texts."""

    test: Annotated[tuple[str, ...], Meta(max_length=10_000)] = ()
    interval: Signed = 0
    timeout: Signed = 0
    retries: Signed = 0
    start_period: Signed = 0
    start_interval: Signed = 0


def health_check_from(wire: HealthCheckWire | None) -> HealthCheck | None:
    if wire is None:
        return None
    return HealthCheck(
        test=wire.test,
        interval=wire.interval,
        timeout=wire.timeout,
        retries=wire.retries,
        start_period=wire.start_period,
        start_interval=wire.start_interval,
    )


def health_check_json(check: HealthCheck) -> Json:
    return omit_empty({
        "Test": check.test, "Interval": check.interval, "Timeout": check.timeout, "StartPeriod": check.start_period,
        "StartInterval": check.start_interval, "Retries": check.retries,
    })  # fmt: skip


def health_json(health: Health) -> Json:
    return {
        "Status": str(health.status),
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": rfc3339(result.start),
                "End": rfc3339(result.end),
                "ExitCode": result.exit_code,
                "Output": result.output,
            }
            for result in health.log
        ],
    }


def health_text(health: Health) -> str:
    """` (healthy)`, as the status of a running container ends."""
    starting = "health: " if health.status == "starting" else ""
    return f" ({starting}{health.status})"
