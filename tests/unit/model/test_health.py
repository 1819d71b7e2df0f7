"""Health checks: fields from spec and image, what results mean, when the next probe begins."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.model.health import (
    MAX_RESULTS,
    MILLISECOND,
    Health,
    HealthCheck,
    HealthStatus,
    ProbeResult,
    go_duration,
    health_check,
)
from weft.model.meta import SECOND

IMAGE = HealthCheck(
    test=("CMD-SHELL", "curl localhost"),
    interval=7 * SECOND,
    timeout=2 * SECOND,
    start_period=9 * SECOND,
    start_interval=SECOND,
    retries=4,
)


def result(exit_code: int) -> ProbeResult:
    return ProbeResult(start=0, end=0, exit_code=exit_code, output=f"says {exit_code}")


@pytest.mark.parametrize("field", HealthCheck.__struct_fields__)
def test_each_field_comes_from_the_image_unless_the_user_set_it(field: str) -> None:
    own: Any = ("CMD", "mine") if field == "test" else 42
    merged = health_check(HealthCheck(**{field: own}), IMAGE)
    assert merged is not None
    for name in HealthCheck.__struct_fields__:
        assert getattr(merged, name) == (own if name == field else getattr(IMAGE, name))


def test_a_check_may_be_only_the_users_only_the_images_or_switched_off() -> None:
    mine = HealthCheck(test=("CMD", "x"))
    assert health_check(mine, None) == mine
    assert health_check(None, IMAGE) == IMAGE
    assert health_check(None, None) is None
    off = health_check(HealthCheck(test=("NONE",)), IMAGE)
    assert off is not None
    assert not off.is_run
    without_test = health_check(HealthCheck(interval=SECOND), None)
    assert without_test is not None
    assert not without_test.is_run
    assert not HealthCheck(test=("UNKNOWN", "x")).is_run


def test_the_command_line() -> None:
    assert HealthCheck(test=("CMD", "a", "b")).command(("bash",)) == ("a", "b")
    assert HealthCheck(test=("CMD-SHELL", "a b")).command() == ("/bin/sh", "-c", "a b")
    assert HealthCheck(test=("CMD-SHELL", "a b")).command(("bash", "-c")) == ("bash", "-c", "a b")


def test_a_container_is_healthy_at_the_first_success_and_unhealthy_after_failures_in_a_row() -> (
    None
):
    check = HealthCheck(retries=2)
    health = Health()
    seen = []
    for code in (1, 0, 1, 0, 1, 1, 1, 0):
        health = health.after(result(code), check, 0)
        seen.append((str(health.status), health.failing_streak))
    assert seen == [
        ("starting", 1), ("healthy", 0), ("healthy", 1), ("healthy", 0),
        ("healthy", 1), ("unhealthy", 2), ("unhealthy", 3), ("healthy", 0),
    ]  # fmt: skip


def test_three_failures_are_the_default() -> None:
    health = Health()
    for _ in range(2):
        health = health.after(result(1), HealthCheck(), 0)
    assert health.status is HealthStatus.STARTING
    assert health.after(result(1), HealthCheck(), 0).status is HealthStatus.UNHEALTHY


def test_failures_in_the_start_period_do_not_count_until_a_success() -> None:
    check = HealthCheck(start_period=10 * SECOND, retries=1)
    early = Health().after(result(1), check, 5 * SECOND)
    assert (early.status, early.failing_streak) == (HealthStatus.STARTING, 0)
    assert early.after(result(1), check, 10 * SECOND).status == "unhealthy"
    healthy = early.after(result(0), check, 6 * SECOND)
    assert healthy.after(result(1), check, 7 * SECOND).status == "unhealthy"


def test_probes_are_closer_in_the_start_period_until_the_first_success() -> None:
    check = HealthCheck(interval=60 * SECOND, start_period=10 * SECOND, start_interval=SECOND)
    assert check.pause(HealthStatus.STARTING, 9 * SECOND) == SECOND
    assert check.pause(HealthStatus.STARTING, 10 * SECOND) == 60 * SECOND
    assert check.pause(HealthStatus.HEALTHY, 9 * SECOND) == 60 * SECOND
    assert HealthCheck().pause(HealthStatus.STARTING, 0) == 30 * SECOND
    assert HealthCheck(start_period=SECOND).pause(HealthStatus.STARTING, 0) == 5 * SECOND
    assert HealthCheck(interval=1).pause(HealthStatus.HEALTHY, 0) == MILLISECOND


@given(st.lists(st.integers(-1, 3), max_size=30), st.integers(0, 4), st.integers(0, 5))
def test_the_log_has_the_last_results_and_the_streak_is_that_of_the_log(
    codes: list[int], retries: int, period: int
) -> None:
    check = HealthCheck(retries=retries, start_period=period)
    health = Health()
    for moment, code in enumerate(codes):
        health = health.after(result(code), check, moment)
    assert [r.exit_code for r in health.log] == codes[-MAX_RESULTS:]
    failures = next((n for n, code in enumerate(reversed(codes)) if code == 0), len(codes))
    assert health.failing_streak <= failures
    if 0 in codes:
        assert health.failing_streak == failures
    assert (health.status is HealthStatus.STARTING) <= (0 not in codes)
    assert (health.status is HealthStatus.UNHEALTHY) == (health.failing_streak >= (retries or 3))


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (30 * SECOND, "30s"),
        (90 * SECOND, "1m30s"),
        (3600 * SECOND, "1h0m0s"),
        (1_500 * MILLISECOND, "1.5s"),
        (MILLISECOND, "1ms"),
        (1_500_000_001, "1.500000001s"),
        (2_500, "2.5µs"),
        (7, "7ns"),
    ],
)
def test_durations_are_written_as_go_writes_them(duration: int, text: str) -> None:
    assert go_duration(duration) == text
