"""Limits of a container's use of the host beyond those of a service (`service.Resources`).

Who writes it: the user who makes a container. 0 and empty mean no limit of its own."""

import msgspec


class Throttle(msgspec.Struct, frozen=True):
    """A limit for one block device."""

    path: str
    """On the host."""
    rate: int
    """Bytes or operations per second; of a weight, the weight."""


class DeviceLimits(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Weights and rates of block devices."""

    weight: int = 0
    """10 to 1000."""
    weights: tuple[Throttle, ...] = ()
    read_bytes: tuple[Throttle, ...] = ()
    write_bytes: tuple[Throttle, ...] = ()
    read_operations: tuple[Throttle, ...] = ()
    write_operations: tuple[Throttle, ...] = ()


class FurtherLimits(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    cpu_shares: int = 0
    cpu_period: int = 0
    """Microseconds."""
    cpu_quota: int = 0
    """Microseconds per period; -1: none."""
    cpuset_cpus: str = ""
    """`0-2,4`."""
    cpuset_mems: str = ""
    memory_reservation: int = 0
    """Bytes."""
    memory_swap: int = 0
    """Bytes of memory and swap together; -1: no limit; 0: twice the memory."""
    swappiness: int | None = None
    """0 to 100; None: the kernel's."""
    oom_kill_disable: bool = False
    devices: DeviceLimits = DeviceLimits()


NO_FURTHER = FurtherLimits()
