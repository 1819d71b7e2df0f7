"""What is seen of a container from outside: the header that describes a file in it, its changes, and
the JSON of `docker stats`."""

import base64
import stat
from collections.abc import Sequence

from weft.api.schema.common import ZERO_TIME, Json, encode_item, omit_empty, rfc3339
from weft.model.container import Container
from weft.model.inside import BlockUse, Change, CpuUse, MemoryUse, PathStat, Usage
from weft.model.meta import Nanoseconds

STAT_HEADER = "X-Docker-Container-Path-Stat"
_GO_TYPES = {
    stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21, stat.S_IFIFO: 1 << 25, stat.S_IFSOCK: 1 << 24,
}  # fmt: skip
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}
"""Bits of Go's `fs.FileMode`."""
_KINDS = {"modified": 0, "added": 1, "deleted": 2}


def go_mode(mode: int) -> int:
    """`mode` of stat(2) as Go's `fs.FileMode`."""
    bits = sum(go for bit, go in _GO_BITS.items() if mode & bit)
    return mode & 0o777 | _GO_TYPES.get(stat.S_IFMT(mode), 0) | bits


def path_stat_header(found: PathStat) -> str:
    body = {
        "name": found.name,
        "size": found.size,
        "mode": go_mode(found.mode),
        "mtime": rfc3339(found.mtime),
        "linkTarget": found.link_target,
    }
    return base64.b64encode(encode_item(body)).decode()


def change_json(change: Change) -> Json:
    return {"Path": change.path, "Kind": _KINDS[change.kind]}


# --- docker stats


def usage_json(container: Container, usage: Usage | None, before: Usage | None) -> Json:
    """`usage`: None for a container that does not run. `before`: an earlier sample, for the use of
    the processors in between."""
    body: Json = {
        "name": f"/{container.config.name}",
        "id": container.id,
        "read": _moment(usage.time if usage else 0),
        "preread": _moment(before.time if before else 0),
        "pids_stats": {},
        "blkio_stats": _blocks_json(usage.block_bytes, usage.block_operations)
        if usage
        else _blocks_json(None, None),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu_json(usage.cpu if usage else CpuUse()),
        "precpu_stats": _cpu_json(before.cpu if before else CpuUse()),
        "memory_stats": _memory_json(usage.memory) if usage else {},
    }
    if usage is None:
        return body
    body["pids_stats"] = omit_empty(
        # Docker shows the largest number of 64 bits where there is no limit.
        {"current": usage.processes, "limit": usage.processes_limit or 2**64 - 1}
    )
    networks = {
        name: {field: getattr(use, field) for field in use.__struct_fields__}
        for name, use in usage.interfaces.items()
    }
    return body | omit_empty({"networks": networks})


def _moment(time: Nanoseconds) -> str:
    return rfc3339(time) if time else ZERO_TIME


def _cpu_json(cpu: CpuUse) -> Json:
    used: Json = {"total_usage": cpu.total}
    used |= omit_empty({"percpu_usage": cpu.per_cpu})
    used |= {"usage_in_kernelmode": cpu.kernel, "usage_in_usermode": cpu.user}
    throttling = {
        "periods": cpu.periods,
        "throttled_periods": cpu.throttled_periods,
        "throttled_time": cpu.throttled_time,
    }
    whole = omit_empty({"system_cpu_usage": cpu.system, "online_cpus": cpu.cpus})
    return {"cpu_usage": used} | whole | {"throttling_data": throttling}


def _memory_json(memory: MemoryUse) -> Json:
    return omit_empty({
        "usage": memory.usage, "max_usage": memory.most, "stats": memory.details,
        "failcnt": memory.failures, "limit": memory.limit,
    })  # fmt: skip


def _blocks_json(
    of_bytes: Sequence[BlockUse] | None, of_operations: Sequence[BlockUse] | None
) -> Json:
    def entries(uses: Sequence[BlockUse] | None) -> list[Json] | None:
        if uses is None:
            return None
        return [
            {"major": use.major, "minor": use.minor, "op": use.operation, "value": use.value}
            for use in uses
        ]

    return {
        "io_service_bytes_recursive": entries(of_bytes),
        "io_serviced_recursive": entries(of_operations),
        "io_queue_recursive": None,
        "io_service_time_recursive": None,
        "io_wait_time_recursive": None,
        "io_merged_recursive": None,
        "io_time_recursive": None,
        "sectors_recursive": None,
    }
