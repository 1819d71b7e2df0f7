"""Limits that a host's kernel does not have: discarded, and never in silence."""

import msgspec
import pytest

from weft.control.requests.possible_limits import possible_limits
from weft.model.limits import DeviceLimits, FurtherLimits, Throttle
from weft.model.optional_limit import OptionalLimit
from weft.model.service import Resources

EVERYTHING = FurtherLimits(
    memory_swap=1 << 30,
    swappiness=0,
    memory_reservation=1 << 24,
    oom_kill_disable=True,
    cpu_shares=100,
    devices=DeviceLimits(
        weight=100,
        weights=(Throttle("/dev/a", 1),),
        read_bytes=(Throttle("/dev/a", 2),),
        write_bytes=(Throttle("/dev/a", 3),),
        read_operations=(Throttle("/dev/a", 4),),
        write_operations=(Throttle("/dev/a", 5),),
    ),
)
MEMORY = Resources(memory=1 << 26)


@pytest.mark.parametrize("limit", OptionalLimit)
def test_each_limit_that_is_missing_is_discarded_with_a_warning(limit: OptionalLimit) -> None:
    left, warnings = possible_limits(MEMORY, EVERYTHING, {limit})
    assert left != EVERYTHING
    assert len(warnings) == 1
    assert "Your kernel does not support" in warnings[0]
    again, none = possible_limits(MEMORY, left, {limit})
    assert (again, none) == (left, [])


def test_nothing_is_said_where_nothing_is_missing_or_asked_for() -> None:
    assert possible_limits(MEMORY, EVERYTHING, ()) == (EVERYTHING, [])
    asked = FurtherLimits(cpu_shares=5)
    assert possible_limits(Resources(), asked, tuple(OptionalLimit)) == (asked, [])


def test_all_of_them_at_once_with_dockers_texts() -> None:
    left, warnings = possible_limits(MEMORY, EVERYTHING, tuple(OptionalLimit))
    assert left == FurtherLimits(memory_swap=-1, cpu_shares=100)
    mounted = "or the cgroup is not mounted."
    assert warnings == [
        f"Your kernel does not support swap limit capabilities {mounted} Memory limited without"
        " swap.",
        f"Your kernel does not support memory swappiness capabilities {mounted} Memory swappiness"
        " discarded.",
        f"Your kernel does not support memory soft limit capabilities {mounted} Limitation"
        " discarded.",
        "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
        f"Your kernel does not support Block I/O weight {mounted} Weight discarded.",
        f"Your kernel does not support Block I/O weight_device {mounted} Weight-device discarded.",
        f"Your kernel does not support BPS Block I/O read limit {mounted} Block I/O BPS read limit"
        " discarded.",
        f"Your kernel does not support BPS Block I/O write limit {mounted} Block I/O BPS write"
        " limit discarded.",
        f"Your kernel does not support IOPS Block read limit {mounted} Block I/O IOPS read limit"
        " discarded.",
        f"Your kernel does not support IOPS Block write limit {mounted} Block I/O IOPS write limit"
        " discarded.",
    ]


def test_a_container_that_may_take_all_memory_for_ever_is_warned_of() -> None:
    further = FurtherLimits(oom_kill_disable=True)
    left, warnings = possible_limits(Resources(), further, ())
    assert left == further
    assert warnings == [
        "OOM killer is disabled for the container, but no memory limit is set, this can result in"
        " the system running out of resources."
    ]
    missing = {OptionalLimit.OOM_KILLER}
    assert len(possible_limits(Resources(), further, missing)[1]) == 1


def test_who_wants_no_limit_of_swap_gets_none_anyway() -> None:
    further = msgspec.structs.replace(EVERYTHING, memory_swap=-1)
    assert possible_limits(MEMORY, further, {OptionalLimit.SWAP}) == (further, [])
