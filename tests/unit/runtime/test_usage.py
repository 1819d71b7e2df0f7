"""A container's use of resources, from files as the kernel writes them."""

import os
from pathlib import Path

from weft.model.inside import BlockUse
from weft.runtime.usage import read_usage

ID = "c" * 64
TICK = 10**9 // os.sysconf("SC_CLK_TCK")
STAT = "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 5 10 15 20 25 30 35\ncpu1 5 10 15 20 25 30 35\n"
NETWORK = (
    "Inter-|   Receive                                                |  Transmit\n"
    " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n"
    "    lo: 99 9 0 0 0 0 0 0 99 9 0 0 0 0 0 0\n"
    "  eth0:1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\n"
)


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def proc(root: Path) -> Path:
    write(
        root, {"stat": STAT, "7/net/dev": NETWORK, "meminfo": "MemTotal:  1024 kB\nMemFree: 1 kB\n"}
    )
    return root


def test_version_1(tmp_path: Path) -> None:
    cgroups = tmp_path / "cgroup"
    write(cgroups, {
        f"cpuacct/weft/{ID}/cpuacct.usage": "123456\n",
        f"cpuacct/weft/{ID}/cpuacct.usage_percpu": "100000 23456 \n",
        f"cpuacct/weft/{ID}/cpuacct.stat": "user 3\nsystem 4\n",
        f"cpu/weft/{ID}/cpu.stat": "nr_periods 5\nnr_throttled 2\nthrottled_time 77\n",
        f"memory/weft/{ID}/memory.usage_in_bytes": "500\n",
        f"memory/weft/{ID}/memory.max_usage_in_bytes": "900\n",
        f"memory/weft/{ID}/memory.failcnt": "1\n",
        f"memory/weft/{ID}/memory.limit_in_bytes": "4096\n",
        f"memory/weft/{ID}/memory.stat": "cache 10\ntotal_inactive_file 20\n",
        f"pids/weft/{ID}/pids.current": "3\n", f"pids/weft/{ID}/pids.max": "max\n",
        f"blkio/weft/{ID}/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n",
    })  # fmt: skip
    usage = read_usage(ID, 7, 1, own_network=True, cgroups=cgroups, proc=proc(tmp_path / "proc"))
    assert (usage.cpu.total, usage.cpu.user, usage.cpu.kernel) == (123456, 3 * TICK, 4 * TICK)
    assert (usage.cpu.per_cpu, usage.cpu.system, usage.cpu.cpus) == ((100000, 23456), 280 * TICK, 2)
    assert (usage.cpu.periods, usage.cpu.throttled_periods, usage.cpu.throttled_time) == (5, 2, 77)
    memory = usage.memory
    assert (memory.usage, memory.most, memory.failures, memory.limit) == (500, 900, 1, 4096)
    assert memory.details == {"cache": 10, "total_inactive_file": 20}
    assert (usage.processes, usage.processes_limit) == (3, 0)
    assert usage.block_bytes == (BlockUse(8, 0, "Read", 4096), BlockUse(8, 0, "Total", 4096))
    assert list(usage.interfaces) == ["eth0"]
    eth0 = usage.interfaces["eth0"]
    assert (eth0.rx_bytes, eth0.rx_dropped, eth0.tx_bytes, eth0.tx_errors) == (1000, 2, 2000, 3)


def test_version_2_and_no_limits(tmp_path: Path) -> None:
    cgroups = tmp_path / "cgroup"
    write(cgroups, {
        "cgroup.controllers": "cpu memory",
        f"weft/{ID}/cpu.stat": "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 1\nthrottled_usec 2\n",
        f"weft/{ID}/memory.current": "500\n", f"weft/{ID}/memory.max": "max\n",
        f"weft/{ID}/memory.events": "low 0\noom 2\n", f"weft/{ID}/memory.stat": "inactive_file 20\n",
        f"weft/{ID}/pids.current": "3\n", f"weft/{ID}/pids.max": "10\n",
        f"weft/{ID}/io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
    })  # fmt: skip
    usage = read_usage(ID, 7, 1, own_network=False, cgroups=cgroups, proc=proc(tmp_path / "proc"))
    assert (usage.cpu.total, usage.cpu.user, usage.cpu.kernel) == (9000, 5000, 4000)
    assert (usage.cpu.per_cpu, usage.cpu.throttled_time) == ((), 2000)
    assert (usage.memory.usage, usage.memory.limit, usage.memory.failures) == (500, 1 << 20, 2)
    assert (usage.processes, usage.processes_limit) == (3, 10)
    assert usage.block_bytes == (BlockUse(8, 0, "read", 1), BlockUse(8, 0, "write", 2))
    assert usage.block_operations == (BlockUse(8, 0, "read", 3), BlockUse(8, 0, "write", 4))
    assert usage.interfaces == {}


def test_a_container_that_is_gone_uses_nothing(tmp_path: Path) -> None:
    usage = read_usage(ID, 7, 1, own_network=True, cgroups=tmp_path, proc=tmp_path)
    assert (usage.cpu.total, usage.memory.usage, usage.processes) == (0, 0, 0)
