"""Health checks: what the user and the image ask for, and what their probes have found.

A probe is one run of the check's command in the container. `Health` decides what its result means;
`pause` decides when the next one begins. Limits and defaults are Docker's (moby daemon/health.go).
"""

from enum import StrEnum

import msgspec

from weft.model.meta import SECOND, Nanoseconds

MILLISECOND: Nanoseconds = 1_000_000
SHORTEST = MILLISECOND
"""The shortest duration of a health check."""
MAX_RESULTS = 5
"""Results that are kept."""
MAX_OUTPUT = 4096
"""Bytes of a probe's output that are kept."""
KINDS = ("NONE", "CMD", "CMD-SHELL")
"""The first word of a test. NONE: no probes, whatever the image says."""

_INTERVAL = 30 * SECOND
_TIMEOUT = 30 * SECOND
_START_INTERVAL = 5 * SECOND
_RETRIES = 3
_SHELL = ("/bin/sh", "-c")


class HealthCheck(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A health check as a user or an image wrote it. 0 and an empty test mean "as the image says",
    and in the end Docker's default."""

    test: tuple[str, ...] = ()
    """One of `KINDS` and its arguments: a command, or a text for the shell."""
    interval: Nanoseconds = 0
    """From the end of a probe to the start of the next, and from the container's start to the first
    probe."""
    timeout: Nanoseconds = 0
    """A probe that takes longer has failed."""
    start_period: Nanoseconds = 0
    """Failures within this time of the container's start do not count, until a probe succeeds."""
    start_interval: Nanoseconds = 0
    """The interval within the start period, until a probe succeeds."""
    retries: int = 0
    """Failures in a row that make a container unhealthy."""

    def over(self, image: "HealthCheck | None") -> "HealthCheck":
        """This check with the image's fields where it has none (moby daemon/commit.go)."""
        if image is None:
            return self
        return HealthCheck(
            test=self.test or image.test,
            interval=self.interval or image.interval,
            timeout=self.timeout or image.timeout,
            start_period=self.start_period or image.start_period,
            start_interval=self.start_interval or image.start_interval,
            retries=self.retries or image.retries,
        )

    @property
    def is_run(self) -> bool:
        """Whether there are probes. A test of an unknown kind, which only an image can have, is not
        run, as in Docker."""
        return self.test[:1] in (("CMD",), ("CMD-SHELL",))

    def command(self, shell: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The probe's command line. `shell`: the image's, if it names one."""
        kind, *words = self.test
        return ((shell or _SHELL) if kind == "CMD-SHELL" else ()) + tuple(words)

    @property
    def probe_timeout(self) -> Nanoseconds:
        return self.timeout or _TIMEOUT

    def pause(self, status: "HealthStatus", age: Nanoseconds) -> Nanoseconds:
        """Time until the next probe. `age`: since the container's start."""
        if status is HealthStatus.STARTING and age < self.start_period:
            return max(self.start_interval or _START_INTERVAL, SHORTEST)
        return max(self.interval or _INTERVAL, SHORTEST)


def health_check(wanted: HealthCheck | None, image: HealthCheck | None) -> HealthCheck | None:
    """The check of a container. `wanted`: the user's."""
    return image if wanted is None else wanted.over(image)


class HealthStatus(StrEnum):
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class ProbeResult(msgspec.Struct, frozen=True, kw_only=True):
    start: Nanoseconds
    end: Nanoseconds
    exit_code: int
    """0: healthy; -1: the probe could not be run, or took too long."""
    output: str
    """At most `MAX_OUTPUT` bytes of standard output and error together, or why there is none."""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes of one container have found. Status and streak are since the container or the
    daemon started, as in Docker."""

    status: HealthStatus = HealthStatus.STARTING
    failing_streak: int = 0
    log: tuple[ProbeResult, ...] = ()
    """The last `MAX_RESULTS` results, oldest first, also of former starts."""

    def after(self, result: ProbeResult, check: HealthCheck, age: Nanoseconds) -> "Health":
        """The health after one more probe. `age`: of the container when the probe began."""
        log = (*self.log, result)[-MAX_RESULTS:]
        if result.exit_code == 0:
            return Health(status=HealthStatus.HEALTHY, log=log)
        is_excused = self.status is HealthStatus.STARTING and age < check.start_period
        streak = self.failing_streak if is_excused else self.failing_streak + 1
        is_over = not is_excused and streak >= (check.retries or _RETRIES)
        status = HealthStatus.UNHEALTHY if is_over else self.status
        return Health(status=status, failing_streak=streak, log=log)

    @property
    def last_output(self) -> str:
        return self.log[-1].output.strip() if self.log else ""


_UNITS = (("h", 3600 * SECOND), ("m", 60 * SECOND))
_SMALL_UNITS = (("s", SECOND), ("ms", MILLISECOND), ("µs", 1000), ("ns", 1))


def go_duration(duration: Nanoseconds) -> str:
    """A positive duration in Go's notation: `1h0m30s`, `1.5s`, `500ms`."""
    text, rest = "", duration
    for unit, size in _UNITS:
        if text or rest >= size:
            text, rest = f"{text}{rest // size}{unit}", rest % size
    if text:
        return f"{text}{_decimal(rest, SECOND)}s"
    unit, size = next((u for u in _SMALL_UNITS if rest >= u[1]), ("s", SECOND))
    return f"{_decimal(rest, size)}{unit}"


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)
