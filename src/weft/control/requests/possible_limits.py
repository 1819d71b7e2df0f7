"""What is left of a container's limits on a host whose kernel lacks some of them, and what its user
is told about the others, with Docker's texts (moby 28.5, daemon/daemon_unix.go,
`verifyPlatformContainerResources`)."""

from collections.abc import Collection, Iterable
from typing import TypeVar

import msgspec

from weft.model.limits import FurtherLimits
from weft.model.optional_limit import OptionalLimit
from weft.model.service import Resources

T = TypeVar("T", bound=msgspec.Struct)
_UNMOUNTED = "or the cgroup is not mounted."
_SWAP = f"Your kernel does not support swap limit capabilities {_UNMOUNTED} Memory limited without swap."
_OOM_KILLER = "Your kernel does not support OomKillDisable. OomKillDisable discarded."
_NO_LIMIT = (
    "OOM killer is disabled for the container, but no memory limit is set, this can result in the"
    " system running out of resources."
)
_OF_MEMORY = (
    (OptionalLimit.SWAPPINESS, "swappiness", None,
     f"Your kernel does not support memory swappiness capabilities {_UNMOUNTED} Memory swappiness"
     " discarded."),
    (OptionalLimit.RESERVATION, "memory_reservation", 0,
     f"Your kernel does not support memory soft limit capabilities {_UNMOUNTED} Limitation"
     " discarded."),
    (OptionalLimit.OOM_KILLER, "oom_kill_disable", False, _OOM_KILLER),
)  # fmt: skip
"""(limit, its field, the field's value for no such limit, warning)."""
_OF_DEVICES = (
    (OptionalLimit.WEIGHT, "weight", 0,
     f"Your kernel does not support Block I/O weight {_UNMOUNTED} Weight discarded."),
    (OptionalLimit.DEVICE_WEIGHT, "weights", (),
     f"Your kernel does not support Block I/O weight_device {_UNMOUNTED} Weight-device discarded."),
    (OptionalLimit.READ_BYTES, "read_bytes", (),
     f"Your kernel does not support BPS Block I/O read limit {_UNMOUNTED} Block I/O BPS read limit"
     " discarded."),
    (OptionalLimit.WRITE_BYTES, "write_bytes", (),
     f"Your kernel does not support BPS Block I/O write limit {_UNMOUNTED} Block I/O BPS write limit"
     " discarded."),
    (OptionalLimit.READ_OPERATIONS, "read_operations", (),
     f"Your kernel does not support IOPS Block read limit {_UNMOUNTED} Block I/O IOPS read limit"
     " discarded."),
    (OptionalLimit.WRITE_OPERATIONS, "write_operations", (),
     f"Your kernel does not support IOPS Block write limit {_UNMOUNTED} Block I/O IOPS write limit"
     " discarded."),
)  # fmt: skip


def possible_limits(
    limits: Resources, further: FurtherLimits, missing: Collection[OptionalLimit]
) -> tuple[FurtherLimits, list[str]]:
    """(the limits that the kernel has, warnings). `limits`, `further`: of a request."""
    warnings = list[str]()
    if OptionalLimit.SWAP in missing and limits.memory and further.memory_swap != -1:
        further = msgspec.structs.replace(further, memory_swap=-1)
        warnings.append(_SWAP)
    further = _possible(further, _OF_MEMORY, missing, warnings)
    if further.oom_kill_disable and not limits.memory:
        warnings.append(_NO_LIMIT)
    devices = _possible(further.devices, _OF_DEVICES, missing, warnings)
    return msgspec.structs.replace(further, devices=devices), warnings


def _possible(
    limits: T,
    table: Iterable[tuple[OptionalLimit, str, object, str]],
    missing: Collection[OptionalLimit],
    warnings: list[str],
) -> T:
    for limit, field, nothing, warning in table:
        if limit in missing and getattr(limits, field) != nothing:
            limits = msgspec.structs.replace(limits, **{field: nothing})
            warnings.append(warning)
    return limits
