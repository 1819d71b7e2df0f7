"""What an update makes of the limits of a plain container: in a request, 0 and absent mean that the
limit stays. Texts are Docker's (moby container/container_unix.go, `UpdateContainer`)."""

from typing import TypeVar

import msgspec

from weft.control.requests.containers import validate_limits
from weft.errors import Conflict
from weft.model.container import Container
from weft.model.limits import DeviceLimits, FurtherLimits
from weft.model.service import Resources

T = TypeVar("T", bound=msgspec.Struct)


def updated_limits(
    container: Container, new: Resources, further: FurtherLimits, *, says_pids: bool
) -> tuple[Resources, FurtherLimits]:
    """`new`, `further`: of the request. `says_pids`: whether the request has a limit of processes,
    which is none if it is 0. Raises `Conflict` or `InvalidArgument`."""
    _check_processors(container, new, further)
    _check_memory(container, new, further)
    limits = _merged(container.config.limits, new)
    if says_pids:
        limits = msgspec.structs.replace(limits, pids=new.pids)
    kept = _merged(_with_swap(container, new), further)
    validate_limits(limits, kept)
    return limits, kept


def _check_processors(container: Container, new: Resources, further: FurtherLimits) -> None:
    """NanoCpus stands for a period and a quota: the way that was chosen first stays."""
    own, present = container.config.limits, container.config.further
    for given, has, text in (
        (new.nano_cpus, present.cpu_period, "Nano CPUs cannot be updated as CPU Period"),
        (new.nano_cpus, present.cpu_quota, "Nano CPUs cannot be updated as CPU Quota"),
        (further.cpu_period, own.nano_cpus, "CPU Period cannot be updated as NanoCPUs"),
        (further.cpu_quota, own.nano_cpus, "CPU Quota cannot be updated as NanoCPUs"),
    ):
        if given > 0 and has > 0:
            raise _refused(container, f"Conflicting options: {text} has already been set")


def _check_memory(container: Container, new: Resources, further: FurtherLimits) -> None:
    """Docker also refuses a limit of memory alone if there is no limit of both together, which then
    is twice that of memory here, as for a new container."""
    if not further.memory_swap and 0 < container.memory_swap < new.memory:
        raise _refused(
            container,
            "Memory limit should be smaller than already set memoryswap limit, update the"
            " memoryswap at the same time",
        )


def _with_swap(container: Container, new: Resources) -> FurtherLimits:
    """The limit of memory and swap together stays, also where it was derived from the old limit of
    memory."""
    present = container.config.further
    if not new.memory or container.memory_swap <= 0:
        return present
    return msgspec.structs.replace(present, memory_swap=container.memory_swap)


def _refused(container: Container, text: str) -> Conflict:
    return Conflict(f"Cannot update container {container.id}: {text}")


def _merged(old: T, new: T) -> T:
    """The old limits, with the new ones where those say something."""
    said = {
        field: value
        for field in old.__struct_fields__
        if (value := getattr(new, field)) not in (0, "", None, (), False, DeviceLimits())
    }
    if isinstance(old, FurtherLimits) and isinstance(new, FurtherLimits):
        said["devices"] = _merged(old.devices, new.devices)
    return msgspec.structs.replace(old, **said)
