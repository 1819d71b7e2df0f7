"""What Docker makes of a container's limits: the bounds that it checks when a container is made,
and the limit of memory and swap together that it derives from the limit of memory.

Source: moby 28.5, daemon/daemon_unix.go, `adaptContainerSettings` and
`verifyPlatformContainerResources`. `checked_limits`, `check_sets` and `swap_is_accounted` look at
the host.
"""

import os
from contextlib import suppress
from pathlib import Path

from weft.errors import InvalidArgument
from weft.model.container import ContainerConfig
from weft.model.limits import FurtherLimits
from weft.model.service import Resources

UNLIMITED = -1
_CGROUPS = Path("/sys/fs/cgroup")
_LEAST_MEMORY = 6 << 20
"""Bytes: less is not enough to start a container."""
_LARGEST = 2**63 - 1


def check_limits(limits: Resources, cpus: int) -> None:
    """`cpus`: how many the host has. Raises `InvalidArgument` with Docker's texts."""
    if not 0 <= limits.nano_cpus <= cpus * 10**9:
        raise InvalidArgument(
            f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )
    if 0 < limits.memory < _LEAST_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")


def memory_and_swap(limits: Resources, accounted: bool, wanted: int = 0) -> int:
    """Bytes of memory and swap together: what the user wants, or twice the limit of memory, so that
    a container swaps out at most as much as it may have in memory. Without a limit of memory 0, or
    `UNLIMITED` if the user says so; `UNLIMITED` on a host that does not count swap."""
    if not limits.memory:
        return min(wanted, 0)
    if wanted and accounted:
        return wanted
    return min(2 * limits.memory, _LARGEST) if accounted else UNLIMITED


def checked_limits(config: ContainerConfig, accounted: bool) -> int:
    """The limit of memory and swap together. Raises `InvalidArgument` with Docker's texts for
    limits that this host cannot have."""
    check_limits(config.limits, len(os.sched_getaffinity(0)))
    check_sets(config.further)
    return memory_and_swap(config.limits, accounted, config.further.memory_swap)


def check_sets(further: FurtherLimits, cgroups: Path = _CGROUPS) -> None:
    """Raises `InvalidArgument` for processors or memory nodes that this host does not have. The
    sets are well formed."""
    for wanted, name, what in (
        (further.cpuset_cpus, "cpus", "CPUs"),
        (further.cpuset_mems, "mems", "memory nodes"),
    ):
        available = _available(name, cgroups)
        if wanted and available and not _numbers(wanted) <= _numbers(available):
            raise InvalidArgument(
                f"Requested {what} are not available - requested {wanted}, available: {available}"
            )


def _available(name: str, cgroups: Path) -> str:
    """As the kernel writes it; empty if it does not tell."""
    for path in (cgroups / "cpuset" / f"cpuset.{name}", cgroups / f"cpuset.{name}.effective"):
        with suppress(OSError):
            return path.read_text().strip()
    return ""


def _numbers(text: str) -> set[int]:
    """Of `0-2,4`."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def swap_is_accounted(cgroups: Path = _CGROUPS) -> bool:
    """Whether the kernel counts the swap of a control group: version 1 has files for it in its
    hierarchy `memory`, version 2 in every group but the root."""
    return (cgroups / "memory" / "memory.memsw.limit_in_bytes").exists() or any(
        cgroups.glob("*/memory.swap.max")
    )
