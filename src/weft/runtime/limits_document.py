"""A container's limits in the form of the OCI runtime specification (`linux.resources`)."""

import os
from collections.abc import Iterable
from typing import Any

from weft.errors import InvalidArgument, cause_of
from weft.model.container import ContainerConfig
from weft.model.limits import DeviceLimits, Throttle

_CPU_PERIOD = 100_000
"""Microseconds; the kernel's default."""


def resources(config: ContainerConfig, memory_swap: int) -> dict[str, Any]:
    """Without `devices`. `memory_swap`: see `Container.memory_swap`. Raises `InvalidArgument` for a
    block device that this host does not have."""
    sections = {
        "memory": _memory(config, memory_swap),
        "cpu": _processors(config),
        "pids": {"limit": config.limits.pids} if config.limits.pids else {},
        "blockIO": _blocks(config.further.devices),
    }
    return {name: section for name, section in sections.items() if section}


def _memory(config: ContainerConfig, memory_swap: int) -> dict[str, Any]:
    limits, further = config.limits, config.further
    found: dict[str, Any] = {}
    if limits.memory:
        found["limit"] = limits.memory
        # A host that does not count swap has no file for the other limit.
        if memory_swap > 0:
            found["swap"] = memory_swap
    if further.memory_reservation:
        found["reservation"] = further.memory_reservation
    if further.swappiness is not None:
        found["swappiness"] = further.swappiness
    if further.oom_kill_disable:
        found["disableOOMKiller"] = True
    return found


def _processors(config: ContainerConfig) -> dict[str, Any]:
    limits, further = config.limits, config.further
    found: dict[str, Any] = {}
    if limits.nano_cpus:
        quota = max(1000, limits.nano_cpus * _CPU_PERIOD // 10**9)
        found |= {"quota": quota, "period": _CPU_PERIOD}
    for name, value in (
        ("shares", further.cpu_shares),
        ("period", further.cpu_period),
        ("quota", further.cpu_quota),
        ("cpus", further.cpuset_cpus),
        ("mems", further.cpuset_mems),
    ):
        if value:
            found[name] = value
    return found


def _blocks(limits: DeviceLimits) -> dict[str, Any]:
    found: dict[str, Any] = {"weight": limits.weight} if limits.weight else {}
    for name, throttles, field in (
        ("weightDevice", limits.weights, "weight"),
        ("throttleReadBpsDevice", limits.read_bytes, "rate"),
        ("throttleWriteBpsDevice", limits.write_bytes, "rate"),
        ("throttleReadIOPSDevice", limits.read_operations, "rate"),
        ("throttleWriteIOPSDevice", limits.write_operations, "rate"),
    ):
        if throttles:
            found[name] = list(_numbered(throttles, field))
    return found


def _numbered(throttles: Iterable[Throttle], field: str) -> Iterable[dict[str, int]]:
    for throttle in throttles:
        try:
            device = os.stat(throttle.path).st_rdev
        except OSError as error:
            raise InvalidArgument(
                f"cannot limit device {throttle.path}: {cause_of(error)}"
            ) from error
        yield {"major": os.major(device), "minor": os.minor(device), field: throttle.rate}
