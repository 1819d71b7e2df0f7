"""Checks of a plain container before the engine makes it, with Docker's texts (moby
daemon/container.go, `verifyContainerSettings`, and daemon/daemon_unix.go,
`verifyPlatformContainerResources`). What needs the host is checked by the runtime."""

import re
from collections.abc import Collection

import msgspec

from weft.control.requests.log_drivers import check_log_driver
from weft.control.requests.mounts import validate_mounts
from weft.control.requests.process_settings import (
    check_host_name,
    check_process,
    validate_hostname,
)
from weft.control.requests.validation import validate_health_check, validate_privileges
from weft.errors import InvalidArgument, clip
from weft.model.container_request import ContainerRequest
from weft.model.control_group import check_parent
from weft.model.kernel_settings import DOMAIN_NAME
from weft.model.limits import DeviceLimits, FurtherLimits
from weft.model.plain_container import PlainContainer
from weft.model.service import ContainerSpec, Mount, Resources
from weft.model.volume import clean

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_CPUSET = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*")
_PERIODS = range(1000, 1_000_001)
_WEIGHTS = range(10, 1001)
_LEAST_RESERVATION = 6 << 20


def validate_container(request: ContainerRequest) -> None:
    """Raises `InvalidArgument`, or `Unsupported` for a log driver that Weft lacks."""
    check_container_name(request.name)
    _validate_spec(request.spec, request.plain)
    if not -1000 <= request.spec.oom_score_adj <= 1000:
        raise InvalidArgument(
            f"Invalid value {request.spec.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    check_log_driver(request.log_driver, request.log_options)
    if request.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")
    validate_limits(request.limits, request.further)
    _validate_rest(request.plain)
    _check_host_names(request.spec, request.plain)


def check_container_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"Invalid container name ({clip(name)}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )


def _validate_spec(spec: ContainerSpec, plain: PlainContainer) -> None:
    written = {clean(target) for target in plain.written.tmpfs}
    validate_mounts([_plainly(mount, written) for mount in spec.mounts])
    check_process(spec, host_network=plain.modes.network == "host")
    validate_hostname(spec.hostname)
    for line in spec.env:
        if not line or line.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {clip(line)}")
        if "\0" in line:
            raise InvalidArgument(f"invalid environment variable: {clip(line)!r} has a NUL in it")
    if any("\0" in word for word in (*spec.command, *spec.args)):
        raise InvalidArgument("invalid command: it has a NUL in it")
    validate_privileges(spec.privileges)
    if spec.healthcheck is not None:
        validate_health_check(spec.healthcheck)


def _plainly(mount: Mount, tmpfs: Collection[str]) -> Mount:
    """The mount without options that only `Tmpfs` may have, which are checked where they are
    read."""
    if mount.type == "tmpfs" and clean(mount.target) in tmpfs:
        return msgspec.structs.replace(mount, tmpfs_options=())
    return mount


def _validate_rest(plain: PlainContainer) -> None:
    if plain.auto_remove and plain.restart.name != "no":
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")
    check_host_name("invalid Domainname", plain.domain_name)
    check_parent(plain.cgroup_parent)
    for key in plain.written.annotations:
        if not key:
            raise InvalidArgument("invalid Annotations: the empty string is not permitted")


def _check_host_names(spec: ContainerSpec, plain: PlainContainer) -> None:
    """A container in the host's UTS namespace has the host's names."""
    if plain.modes.uts != "host":
        return
    for given, name in ((spec.hostname, "hostname"), (plain.domain_name, "domainname")):
        if given:
            raise InvalidArgument(f"conflicting options: {name} and the UTS mode")
    if any(name.replace("/", ".") == DOMAIN_NAME for name in spec.sysctls):
        raise InvalidArgument(
            f"cannot set sysctl {DOMAIN_NAME}: not allowed in the host's UTS namespace"
        )


def validate_limits(limits: Resources, further: FurtherLimits) -> None:
    """Raises `InvalidArgument`."""
    _validate_memory(limits, further)
    _validate_processors(limits, further)
    _validate_devices(further.devices)


def _validate_memory(limits: Resources, further: FurtherLimits) -> None:
    memory, swap = limits.memory, further.memory_swap
    if swap > 0 and not memory:
        raise InvalidArgument(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    if 0 < swap < memory:
        raise InvalidArgument(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if swap < -1:
        raise InvalidArgument(f"invalid MemorySwap: {swap} is less than -1")
    if further.swappiness is not None and not 0 <= further.swappiness <= 100:
        raise InvalidArgument(
            f"Invalid value: {further.swappiness}, valid memory swappiness range is 0-100"
        )
    if 0 < memory < further.memory_reservation:
        raise InvalidArgument(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )
    if 0 < further.memory_reservation < _LEAST_RESERVATION:
        raise InvalidArgument("Minimum memory reservation allowed is 6MB")
    if further.memory_reservation < 0:
        raise InvalidArgument(f"invalid MemoryReservation: {further.memory_reservation}")


def _validate_processors(limits: Resources, further: FurtherLimits) -> None:
    for given, name in ((further.cpu_period, "Period"), (further.cpu_quota, "Quota")):
        if limits.nano_cpus and given:
            raise InvalidArgument(
                f"Conflicting options: Nano CPUs and CPU {name} cannot both be set"
            )
    if further.cpu_shares < 0:
        raise InvalidArgument(
            f"invalid CPU shares ({further.cpu_shares}): value must be a positive integer"
        )
    if further.cpu_period and further.cpu_period not in _PERIODS:
        raise InvalidArgument(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < further.cpu_quota < _PERIODS.start or further.cpu_quota < -1:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    for value, name in ((further.cpuset_cpus, "cpus"), (further.cpuset_mems, "mems")):
        if value and not _CPUSET.fullmatch(value):
            raise InvalidArgument(
                f"Invalid value {clip(value)} for cpuset {name}: invalid format: {clip(value)}"
            )


def _validate_devices(limits: DeviceLimits) -> None:
    weights = [limits.weight, *(throttle.rate for throttle in limits.weights)]
    if any(weight and weight not in _WEIGHTS for weight in weights):
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
