"""What Docker makes of a container's limits."""

from pathlib import Path

import pytest

from weft.errors import InvalidArgument
from weft.model.service import Resources
from weft.runtime.limits import UNLIMITED, check_limits, memory_and_swap, swap_is_accounted


def test_memory_and_swap_together_are_twice_the_limit_of_memory() -> None:
    assert memory_and_swap(Resources(memory=64 << 20), accounted=True) == 128 << 20
    assert memory_and_swap(Resources(), accounted=True) == 0
    assert memory_and_swap(Resources(memory=2**63 - 1), accounted=True) == 2**63 - 1


def test_swap_has_no_limit_where_the_kernel_does_not_count_it() -> None:
    assert memory_and_swap(Resources(memory=64 << 20), accounted=False) == UNLIMITED
    assert memory_and_swap(Resources(), accounted=False) == 0


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
    with pytest.raises(InvalidArgument) as refused:
        check_limits(Resources(nano_cpus=2 * 10**9 + 1), cpus=2)
    assert str(refused.value) == (
        "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"
    )
    with pytest.raises(InvalidArgument, match="Minimum memory limit allowed is 6MB"):
        check_limits(Resources(memory=(6 << 20) - 1), cpus=2)
