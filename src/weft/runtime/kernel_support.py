"""Which limits this host's kernel does not have (control groups, version 1 or 2).

The OCI runtime writes no limit that version 2 has not (swappiness, the OOM killer, weights of devices
without BFQ), and says nothing. So what is missing is found out here, and the user is told."""

from collections.abc import Iterable
from pathlib import Path

from weft.model.optional_limit import OptionalLimit
from weft.runtime.control_groups import are_version_2
from weft.runtime.limits import swap_is_accounted
from weft.system.scopes import CGROUPS

_VERSION_1 = {
    OptionalLimit.SWAPPINESS: ("memory/memory.swappiness",),
    OptionalLimit.OOM_KILLER: ("memory/memory.oom_control",),
    OptionalLimit.RESERVATION: ("memory/memory.soft_limit_in_bytes",),
    OptionalLimit.WEIGHT: ("blkio/blkio.weight", "blkio/blkio.bfq.*"),
    OptionalLimit.DEVICE_WEIGHT: ("blkio/blkio.weight_device", "blkio/blkio.bfq.*"),
    OptionalLimit.READ_BYTES: ("blkio/blkio.throttle.read_bps_device",),
    OptionalLimit.WRITE_BYTES: ("blkio/blkio.throttle.write_bps_device",),
    OptionalLimit.READ_OPERATIONS: ("blkio/blkio.throttle.read_iops_device",),
    OptionalLimit.WRITE_OPERATIONS: ("blkio/blkio.throttle.write_iops_device",),
}
"""Files of which one is there if the kernel has the limit. BFQ's files of weights are in all groups
but the root, its statistics also there."""
_VERSION_2_FILES = {
    OptionalLimit.WEIGHT: ("io.cost.qos", "*/io.weight", "*/io.bfq.weight"),
    OptionalLimit.DEVICE_WEIGHT: ("*/io.bfq.weight",),
}
_VERSION_2_CONTROLLERS = {
    OptionalLimit.RESERVATION: "memory",
    OptionalLimit.READ_BYTES: "io",
    OptionalLimit.WRITE_BYTES: "io",
    OptionalLimit.READ_OPERATIONS: "io",
    OptionalLimit.WRITE_OPERATIONS: "io",
}


def missing_limits(cgroups: Path = CGROUPS) -> frozenset[OptionalLimit]:
    found = _version_2(cgroups) if are_version_2(cgroups) else set(_with_files(_VERSION_1, cgroups))
    if swap_is_accounted(cgroups):
        found.add(OptionalLimit.SWAP)
    return frozenset(OptionalLimit) - found


def _version_2(cgroups: Path) -> set[OptionalLimit]:
    controllers = (cgroups / "cgroup.controllers").read_text().split()
    found = {limit for limit, name in _VERSION_2_CONTROLLERS.items() if name in controllers}
    return found | (set(_with_files(_VERSION_2_FILES, cgroups)) if "io" in controllers else set())


def _with_files(
    files: dict[OptionalLimit, tuple[str, ...]], cgroups: Path
) -> Iterable[OptionalLimit]:
    for limit, patterns in files.items():
        if any(any(cgroups.glob(pattern)) for pattern in patterns):
            yield limit
