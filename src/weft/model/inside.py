"""What can be seen of a container from outside: a file in it, its changes of the image's files, and
its use of the host's resources."""

from typing import Literal

import msgspec

from weft.model.meta import Nanoseconds


class PathStat(msgspec.Struct, frozen=True, kw_only=True):
    """One file in a container."""

    name: str
    """The last part of the path that was asked for."""
    size: int
    mode: int
    """As in stat(2)."""
    mtime: Nanoseconds
    link_target: str = ""
    """For a symbolic link: the absolute path to which it leads in the container."""


class Change(msgspec.Struct, frozen=True):
    """One difference between a container's files and its image's."""

    path: str
    kind: Literal["modified", "added", "deleted"]


class InterfaceUse(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one network interface."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class BlockUse(msgspec.Struct, frozen=True):
    """A counter of one block device."""

    major: int
    minor: int
    operation: str
    """`read`, `write`…"""
    value: int


class CpuUse(msgspec.Struct, frozen=True, kw_only=True):
    """Times in nanoseconds, since the container was made."""

    total: int = 0
    user: int = 0
    kernel: int = 0
    per_cpu: tuple[int, ...] = ()
    """Empty with version 2 of control groups, which does not count it."""
    system: int = 0
    """The time of all processors of the host together, since it was started."""
    cpus: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


class MemoryUse(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes."""

    usage: int = 0
    limit: int = 0
    """The container's limit, or the host's memory."""
    most: int = 0
    """The largest usage so far; 0 if the kernel does not say."""
    failures: int = 0
    """How often the limit was reached."""
    details: dict[str, int] = {}
    """memory.stat."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """A running container's use of the host's resources at one moment."""

    time: Nanoseconds
    cpu: CpuUse = CpuUse()
    memory: MemoryUse = MemoryUse()
    processes: int = 0
    processes_limit: int = 0
    """0: no limit."""
    block_bytes: tuple[BlockUse, ...] = ()
    block_operations: tuple[BlockUse, ...] = ()
    interfaces: dict[str, InterfaceUse] = {}
    """The sandbox's interfaces, without `lo`; empty on the host's network."""
