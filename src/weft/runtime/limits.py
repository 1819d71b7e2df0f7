"""What Docker makes of a container's limits: the bounds that it checks when a container is made,
and the limit of memory and swap together that it derives from the limit of memory.

Source: moby 28.5, daemon/daemon_unix.go, `adaptContainerSettings` and
`verifyPlatformContainerResources`. Only `swap_is_accounted` looks at the host.
"""

from pathlib import Path

from weft.errors import InvalidArgument
from weft.model.service import Resources

UNLIMITED = -1
_LEAST_MEMORY = 6 << 20
"""Bytes: less is not enough to start a container."""
_LARGEST = 2**63 - 1


def check_limits(limits: Resources, cpus: int) -> None:
    """`cpus`: how many the host has. Raises `InvalidArgument` with Docker's texts."""
    if limits.nano_cpus > cpus * 10**9:
        raise InvalidArgument(
            f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )
    if 0 < limits.memory < _LEAST_MEMORY:
        raise InvalidArgument("Minimum memory limit allowed is 6MB")


def memory_and_swap(limits: Resources, accounted: bool, wanted: int = 0) -> int:
    """Bytes of memory and swap together: what the user wants, or twice the limit of memory, so that
    a container swaps out at most as much as it may have in memory. 0 without a limit of memory;
    `UNLIMITED` on a host that does not count swap."""
    if not limits.memory:
        return 0
    if wanted and accounted:
        return wanted
    return min(2 * limits.memory, _LARGEST) if accounted else UNLIMITED


def swap_is_accounted(cgroups: Path = Path("/sys/fs/cgroup")) -> bool:
    """Whether the kernel counts the swap of a control group: version 1 has files for it in its
    hierarchy `memory`, version 2 in every group but the root."""
    return (cgroups / "memory" / "memory.memsw.limit_in_bytes").exists() or any(
        cgroups.glob("*/memory.swap.max")
    )
