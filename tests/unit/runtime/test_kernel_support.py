"""Which limits a kernel has, by the files of its control groups."""

from pathlib import Path

from weft.model.optional_limit import OptionalLimit as Limit
from weft.runtime.kernel_support import missing_limits

THROTTLES = {
    Limit.READ_BYTES, Limit.WRITE_BYTES, Limit.READ_OPERATIONS, Limit.WRITE_OPERATIONS,
}  # fmt: skip


def make(root: Path, *files: str, controllers: str | None = None) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    if controllers is not None:
        (root / "cgroup.controllers").write_text(f"{controllers}\n")
    return root


def test_version_1_has_a_file_for_each(tmp_path: Path) -> None:
    assert missing_limits(tmp_path) == set(Limit)
    names = [f"{how}_{what}_device" for how in ("read", "write") for what in ("bps", "iops")]
    make(tmp_path, *(f"blkio/blkio.throttle.{name}" for name in names))
    make(tmp_path, "memory/memory.swappiness", "memory/memory.memsw.limit_in_bytes")
    assert missing_limits(tmp_path) == {
        Limit.OOM_KILLER, Limit.RESERVATION, Limit.WEIGHT, Limit.DEVICE_WEIGHT,
    }  # fmt: skip
    make(tmp_path, "memory/memory.oom_control", "memory/memory.soft_limit_in_bytes")
    make(tmp_path, "blkio/blkio.bfq.io_serviced")
    assert missing_limits(tmp_path) == set()


def test_version_2_lacks_some_in_any_case(tmp_path: Path) -> None:
    always = {Limit.SWAPPINESS, Limit.OOM_KILLER}
    make(tmp_path, "a.slice/memory.swap.max", controllers="cpu memory pids")
    weights = {Limit.WEIGHT, Limit.DEVICE_WEIGHT}
    assert missing_limits(tmp_path) == always | weights | THROTTLES
    make(tmp_path, controllers="cpu io memory pids")
    assert missing_limits(tmp_path) == always | weights
    make(tmp_path, "io.cost.qos")
    assert missing_limits(tmp_path) == always | {Limit.DEVICE_WEIGHT}
    make(tmp_path, "a.slice/io.bfq.weight")
    assert missing_limits(tmp_path) == always
