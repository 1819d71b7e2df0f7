"""What Docker makes of a container's limits."""

from pathlib import Path

import pytest

from weft.errors import InvalidArgument
from weft.model.limits import FurtherLimits
from weft.model.service import Resources
from weft.runtime.limits import (
    UNLIMITED,
    check_limits,
    check_sets,
    memory_and_swap,
    swap_is_accounted,
)


def test_memory_and_swap_together_are_twice_the_limit_of_memory() -> None:
    assert memory_and_swap(Resources(memory=64 << 20), accounted=True) == 128 << 20
    assert memory_and_swap(Resources(), accounted=True) == 0
    assert memory_and_swap(Resources(memory=2**63 - 1), accounted=True) == 2**63 - 1


def test_swap_has_no_limit_where_the_kernel_does_not_count_it() -> None:
    assert memory_and_swap(Resources(memory=64 << 20), accounted=False) == UNLIMITED
    assert memory_and_swap(Resources(), accounted=False) == 0


def test_no_limit_of_swap_that_the_user_asks_for_is_told() -> None:
    for accounted in (True, False):
        assert memory_and_swap(Resources(), accounted, UNLIMITED) == UNLIMITED
    assert memory_and_swap(Resources(memory=64 << 20), True, UNLIMITED) == UNLIMITED


@pytest.mark.parametrize(
    ("file", "accounted"),
    [
        ("memory/memory.memsw.limit_in_bytes", True),
        ("memory/memory.limit_in_bytes", False),
        ("system.slice/memory.swap.max", True),
        ("system.slice/memory.max", False),
    ],
)
def test_both_versions_of_control_groups_tell_whether_swap_is_counted(
    tmp_path: Path, file: str, accounted: bool
) -> None:
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text("max")
    assert swap_is_accounted(tmp_path) == accounted


def test_more_processors_than_there_are_and_too_little_memory_are_refused() -> None:
    check_limits(Resources(nano_cpus=2 * 10**9, memory=6 << 20), cpus=2)
    check_limits(Resources(), cpus=2)
    for nano_cpus in (2 * 10**9 + 1, -1):
        with pytest.raises(InvalidArgument) as refused:
            check_limits(Resources(nano_cpus=nano_cpus), cpus=2)
        assert str(refused.value) == (
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
        )
    with pytest.raises(InvalidArgument, match="Minimum memory limit allowed is 6MB"):
        check_limits(Resources(memory=(6 << 20) - 1), cpus=2)


@pytest.mark.parametrize("names", [("cpuset/cpuset.cpus", "cpuset/cpuset.mems"),
                                   ("cpuset.cpus.effective", "cpuset.mems.effective")])  # fmt: skip
def test_processors_and_memory_that_the_host_does_not_have_are_refused(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    (tmp_path / "cpuset").mkdir()
    for name, has in zip(names, ("0-2,5", "0"), strict=True):
        (tmp_path / name).write_text(f"{has}\n")
    check_sets(FurtherLimits(cpuset_cpus="0,1-2,5", cpuset_mems="0"), tmp_path)
    with pytest.raises(InvalidArgument) as refused:
        check_sets(FurtherLimits(cpuset_cpus="2-3"), tmp_path)
    assert str(refused.value) == (
        "Requested CPUs are not available - requested 2-3, available: 0-2,5"
    )
    with pytest.raises(InvalidArgument, match="Requested memory nodes are not available"):
        check_sets(FurtherLimits(cpuset_mems="1"), tmp_path)
