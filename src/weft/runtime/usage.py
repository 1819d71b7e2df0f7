"""A container's use of the host's resources, from its control groups (version 1 or 2) and, for its
network, from /proc. A file that this kernel does not have counts as empty."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from weft.model.inside import BlockUse, CpuUse, InterfaceUse, MemoryUse, Usage
from weft.model.meta import SECOND, Nanoseconds
from weft.model.numbers import decimal
from weft.runtime.control_groups import are_version_2, group_of
from weft.system.scopes import CGROUPS

PROC = Path("/proc")
_MICROSECOND = 1000
_SYSTEM_FIELDS = 7
"""The fields of the first line in /proc/stat that together are all the time: user to softirq
(proc(5)); guests' time is part of the first two."""
_ReadGroup = Callable[[str, str], str]
"""(controller, file) -> the content."""


def read_usage(
    group: str,
    pid: int,
    time: Nanoseconds,
    *,
    own_network: bool,
    cgroups: Path = CGROUPS,
    proc: Path = PROC,
) -> Usage:
    """`group`: the container's, see `ContainerConfig.group`. `pid`: its first process.
    `own_network`: whether its interfaces are its own."""
    is_unified = are_version_2(cgroups)

    def read(controller: str, file: str) -> str:
        return _content(group_of(group, controller, cgroups) / file)

    system, cpus = _host_time(_content(proc / "stat"))
    host_memory = _pairs(_content(proc / "meminfo").replace(":", "")).get("MemTotal", 0) << 10
    cpu, memory = (_cpu_v2, _memory_v2) if is_unified else (_cpu_v1, _memory_v1)
    read_bytes, operations = _blocks_v2(read) if is_unified else _blocks_v1(read)
    return Usage(
        time=time,
        cpu=cpu(read, system, cpus),
        memory=memory(read, host_memory),
        processes=_number(read("pids", "pids.current")),
        processes_limit=_number(read("pids", "pids.max")),
        block_bytes=read_bytes,
        block_operations=operations,
        interfaces=_interfaces(_content(proc / str(pid) / "net" / "dev")) if own_network else {},
    )


def _content(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(text: str) -> int:
    """0 also for `max`."""
    return decimal(text.strip()) or 0


def _pairs(text: str) -> dict[str, int]:
    """Lines of `name number`."""
    found = {}
    for line in text.splitlines():
        name, *numbers = line.split()
        if numbers:
            found[name] = _number(numbers[0])
    return found


# --- processors


def _host_time(text: str) -> tuple[int, int]:
    """(nanoseconds of all processors together, number of processors) from /proc/stat."""
    rows = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    total = next((row[1 : 1 + _SYSTEM_FIELDS] for row in rows if row[0] == "cpu"), [])
    ticks = sum(_number(field) for field in total)
    return ticks * SECOND // os.sysconf("SC_CLK_TCK"), len(rows) - 1


def _cpu_v1(read: _ReadGroup, system: int, cpus: int) -> CpuUse:
    tick = SECOND // os.sysconf("SC_CLK_TCK")
    by_mode = _pairs(read("cpuacct", "cpuacct.stat"))
    quota = _pairs(read("cpu", "cpu.stat"))
    return CpuUse(
        total=_number(read("cpuacct", "cpuacct.usage")),
        user=by_mode.get("user", 0) * tick,
        kernel=by_mode.get("system", 0) * tick,
        per_cpu=tuple(_number(text) for text in read("cpuacct", "cpuacct.usage_percpu").split()),
        system=system,
        cpus=cpus,
        periods=quota.get("nr_periods", 0),
        throttled_periods=quota.get("nr_throttled", 0),
        throttled_time=quota.get("throttled_time", 0),
    )


def _cpu_v2(read: _ReadGroup, system: int, cpus: int) -> CpuUse:
    found = _pairs(read("cpu", "cpu.stat"))
    return CpuUse(
        total=found.get("usage_usec", 0) * _MICROSECOND,
        user=found.get("user_usec", 0) * _MICROSECOND,
        kernel=found.get("system_usec", 0) * _MICROSECOND,
        system=system,
        cpus=cpus,
        periods=found.get("nr_periods", 0),
        throttled_periods=found.get("nr_throttled", 0),
        throttled_time=found.get("throttled_usec", 0) * _MICROSECOND,
    )


# --- memory


def _memory_v1(read: _ReadGroup, host: int) -> MemoryUse:
    return MemoryUse(
        usage=_number(read("memory", "memory.usage_in_bytes")),
        limit=_limit(read("memory", "memory.limit_in_bytes"), host),
        most=_number(read("memory", "memory.max_usage_in_bytes")),
        failures=_number(read("memory", "memory.failcnt")),
        details=_pairs(read("memory", "memory.stat")),
    )


def _memory_v2(read: _ReadGroup, host: int) -> MemoryUse:
    return MemoryUse(
        usage=_number(read("memory", "memory.current")),
        limit=_limit(read("memory", "memory.max"), host),
        failures=_pairs(read("memory", "memory.events")).get("oom", 0),
        details=_pairs(read("memory", "memory.stat")),
    )


def _limit(text: str, host: int) -> int:
    limit = _number(text)
    return limit if 0 < limit < host else host


# --- block devices


def _blocks_v1(read: _ReadGroup) -> tuple[tuple[BlockUse, ...], tuple[BlockUse, ...]]:
    def found(file: str) -> tuple[BlockUse, ...]:
        rows = (line.split() for line in read("blkio", file).splitlines())
        return tuple(
            BlockUse(*_device(row[0]), row[1], _number(row[2])) for row in rows if len(row) == 3
        )

    return (
        found("blkio.throttle.io_service_bytes_recursive"),
        found("blkio.throttle.io_serviced_recursive"),
    )


def _blocks_v2(read: _ReadGroup) -> tuple[tuple[BlockUse, ...], tuple[BlockUse, ...]]:
    """Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`."""
    rows = [line.split() for line in read("io", "io.stat").splitlines()]

    def found(names: Sequence[tuple[str, str]]) -> tuple[BlockUse, ...]:
        uses = []
        for device, *fields in rows:
            values = dict(field.partition("=")[::2] for field in fields)
            uses += [
                BlockUse(*_device(device), operation, _number(values[name]))
                for name, operation in names
                if name in values
            ]
        return tuple(uses)

    return (
        found((("rbytes", "read"), ("wbytes", "write"))),
        found((("rios", "read"), ("wios", "write"))),
    )


def _device(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(":")
    return _number(major), _number(minor)


# --- network


def _interfaces(text: str) -> dict[str, InterfaceUse]:
    """/proc/PID/net/dev: two lines of titles, then eight numbers received and eight sent."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        n = [_number(field) for field in rest.split()]
        if name.strip() != "lo" and len(n) >= 12:
            found[name.strip()] = InterfaceUse(
                rx_bytes=n[0],
                rx_packets=n[1],
                rx_errors=n[2],
                rx_dropped=n[3],
                tx_bytes=n[8],
                tx_packets=n[9],
                tx_errors=n[10],
                tx_dropped=n[11],
            )
    return found
