"""What an update makes of a plain container's limits, against what Docker Engine 28 does with the
same requests."""

import msgspec
import pytest

from weft.control.requests.limit_updates import updated_limits
from weft.errors import Conflict, InvalidArgument
from weft.model.container import Container, ContainerConfig
from weft.model.ids import ContainerId
from weft.model.limits import DeviceLimits, FurtherLimits
from weft.model.service import ContainerSpec, Resources

M = 1 << 20


def container(limits: Resources, further: FurtherLimits, swap: int = 0) -> Container:
    config = ContainerConfig(
        id=ContainerId("it"),
        name="it",
        spec=ContainerSpec(image="demo"),
        hostname="it",
        namespace=None,
        limits=limits,
        further=further,
    )
    return Container(config=config, image="demo", args=(), memory_swap=swap)


@pytest.mark.parametrize(
    ("swap", "wanted", "kept"),
    [
        (128 * M, Resources(memory=96 * M), 128 * M),
        (128 * M, Resources(memory=32 * M), 128 * M),
        (128 * M, Resources(nano_cpus=5), 0),
        (-1, Resources(memory=256 * M), 0),
    ],
)
def test_memory_and_swap_together_stay(swap: int, wanted: Resources, kept: int) -> None:
    before = container(Resources(memory=64 * M), FurtherLimits(), swap)
    limits, further = updated_limits(before, wanted, FurtherLimits(), says_pids=False)
    assert limits.memory == (wanted.memory or 64 * M)
    assert further.memory_swap == kept


def test_more_memory_than_both_together_needs_both() -> None:
    before = container(Resources(memory=64 * M), FurtherLimits(), 128 * M)
    more = Resources(memory=256 * M)
    with pytest.raises(Conflict) as refused:
        updated_limits(before, more, FurtherLimits(), says_pids=False)
    assert str(refused.value) == (
        "Cannot update container it: Memory limit should be smaller than already set memoryswap"
        " limit, update the memoryswap at the same time"
    )
    for swap in (-1, 300 * M):
        further = FurtherLimits(memory_swap=swap)
        assert updated_limits(before, more, further, says_pids=False) == (more, further)


@pytest.mark.parametrize(
    ("had", "wanted", "text"),
    [
        ("cpu_period", "nano_cpus", "Nano CPUs cannot be updated as CPU Period has already been"),
        ("cpu_quota", "nano_cpus", "Nano CPUs cannot be updated as CPU Quota has already been set"),
        ("nano_cpus", "cpu_period", "CPU Period cannot be updated as NanoCPUs has already been"),
        ("nano_cpus", "cpu_quota", "CPU Quota cannot be updated as NanoCPUs has already been set"),
    ],
)
def test_processors_are_limited_in_one_way(had: str, wanted: str, text: str) -> None:
    def limits(name: str) -> tuple[Resources, FurtherLimits]:
        if name == "nano_cpus":
            return Resources(nano_cpus=10**8), FurtherLimits()
        return Resources(), msgspec.structs.replace(FurtherLimits(), **{name: 20_000})

    with pytest.raises(Conflict, match=f"Conflicting options: {text}"):
        updated_limits(container(*limits(had)), *limits(wanted), says_pids=False)


def test_what_the_request_does_not_say_stays() -> None:
    own = Resources(memory=64 * M, pids=5)
    further = FurtherLimits(cpu_shares=3, swappiness=0, devices=DeviceLimits(weight=20))
    before = container(own, further, 128 * M)
    same = updated_limits(before, Resources(), FurtherLimits(), says_pids=False)
    assert same == (own, further)
    new = FurtherLimits(cpuset_cpus="0", devices=DeviceLimits(weight=30))
    limits, kept = updated_limits(before, Resources(), new, says_pids=True)
    assert limits == Resources(memory=64 * M)
    assert kept == msgspec.structs.replace(
        further, cpuset_cpus="0", devices=DeviceLimits(weight=30)
    )


def test_what_the_whole_would_be_is_checked() -> None:
    before = container(Resources(memory=64 * M), FurtherLimits(), 128 * M)
    more = FurtherLimits(memory_reservation=96 * M)
    with pytest.raises(InvalidArgument, match="memory reservation limit"):
        updated_limits(before, Resources(), more, says_pids=False)
