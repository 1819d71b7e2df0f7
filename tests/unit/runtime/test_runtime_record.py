"""A container's files: who may read them, whatever the umask, and that they are replaced whole."""

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from weft.errors import Damaged, OperationFailed
from weft.model.container import Container, ContainerConfig
from weft.model.ids import ContainerId
from weft.model.plain_container import PlainContainer
from weft.model.service import ContainerSpec, Resources
from weft.runtime.record import RECORDS, Directory, Record


def record() -> Record:
    config = ContainerConfig(
        id=ContainerId("c" * 64),
        name="one",
        hostname="one",
        namespace=None,
        spec=ContainerSpec(image="demo"),
        limits=Resources(),
        hosts="",
        resolv_conf="",
    )
    return Record(
        container=Container(config=config, image="demo", args=("true",), env=(), created_at=1),
        stop_signal="SIGTERM",
    )


@pytest.mark.usefixtures("any_umask")
def test_the_container_can_read_what_is_meant_for_it_and_users_of_the_host_nothing(
    tmp_path: Path,
) -> None:
    directory = Directory(tmp_path / "containers" / ("c" * 64))
    directory.make()
    directory.write(record())
    names = ("hosts", "hostname", "resolv.conf", "config.json")
    directory.write_files(dict.fromkeys(names, b"x"))
    found = {
        path.name: f"{stat.S_IMODE(path.stat().st_mode):o}"
        for path in (directory.path, *directory.path.iterdir())
    }
    assert found == {
        "c" * 64: "700", "upper": "755", "work": "700", "merged": "700",
        "weft.json": "600", "weft.json.copy": "600", "config.json": "600",
        "hosts": "644", "hostname": "644", "resolv.conf": "644",
    }  # fmt: skip


def test_a_record_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(tmp_path / "one")
    directory.make()
    directory.write(record())

    def full(_source: object, _target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        OperationFailed, match=r"cannot write .*/one/weft.json.copy: No space left on device"
    ):
        directory.write(record())
    assert directory.read() == record()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "garbage": lambda content: random.Random(1).randbytes(len(content)),
}


@pytest.mark.parametrize("how", [*DAMAGES, "absent"])
@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_there_as_long_as_one_of_its_files_is(
    tmp_path: Path, name: str, how: str
) -> None:
    directory = Directory(tmp_path / "one")
    directory.make()
    directory.write(record())
    path = directory.path / name
    if how == "absent":
        path.unlink()
    else:
        path.write_bytes(DAMAGES[how](path.read_bytes()))
    assert directory.read() == record()
    directory.write(record())
    assert len({(directory.path / each).read_bytes() for each in RECORDS}) == 1


@pytest.mark.parametrize("how", DAMAGES)
def test_a_record_that_nobody_can_read_is_none_of_a_container_half_made(
    tmp_path: Path, how: str
) -> None:
    directory = Directory(tmp_path / "one")
    directory.make()
    assert directory.read() is None
    directory.write(record())
    for name in RECORDS:
        path = directory.path / name
        path.write_bytes(DAMAGES[how](path.read_bytes()))
    with pytest.raises(Damaged, match=r"cannot read the record of container one, .*/weft.json: "):
        directory.read()


@pytest.mark.parametrize(
    ("had", "wanted", "section"),
    [
        (True, 0, {"pids": {"limit": -1}}),
        (False, 0, {}),
        (True, 7, {"pids": {"limit": 7}}),
        (False, 7, {"pids": {"limit": 7}}),
    ],
)
def test_a_limit_that_is_taken_away_is_told(
    tmp_path: Path, had: bool, wanted: int, section: dict[str, Any]
) -> None:
    before = record().container
    config = msgspec.structs.replace(before.config, limits=Resources(pids=wanted))
    had_config = msgspec.structs.replace(before.config, limits=Resources(pids=5 if had else 0))
    before = msgspec.structs.replace(before, config=had_config)
    directory = Directory(tmp_path / "one")
    directory.make()
    written = directory.write_resources(before, config, 0)
    assert msgspec.json.decode(written.read_bytes()) == section


@pytest.mark.parametrize(
    ("had", "has", "swap"), [(128 << 20, -1, {"swap": -1}), (-1, -1, {}), (0, -1, {})]
)
def test_swap_without_a_limit_is_told_where_there_was_one(
    tmp_path: Path, had: int, has: int, swap: dict[str, int]
) -> None:
    """A host that does not count swap has had none, and has no file for it."""
    before = msgspec.structs.replace(record().container, memory_swap=had)
    config = msgspec.structs.replace(before.config, limits=Resources(memory=64 << 20))
    directory = Directory(tmp_path / "one")
    directory.make()
    written = msgspec.json.decode(directory.write_resources(before, config, has).read_bytes())
    assert written == {"memory": {"limit": 64 << 20, **swap}}


def test_a_plain_container_outlives_a_loss_of_power(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment one of the two files is on the disk whole."""
    directory = Directory(tmp_path / "one")
    directory.make()
    steps: list[str] = []
    flush, replace = os.fsync, os.replace

    def flushed(fd: int) -> None:
        flush(fd)
        steps.append(f"flush {Path(os.readlink(f'/proc/self/fd/{fd}')).name}")

    def replaced(draft: Path, path: Path) -> None:
        replace(draft, path)
        steps.append(f"replace {path.name}")

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", replaced)
    task = record()
    directory.write(task)
    assert steps == ["replace weft.json.copy", "replace weft.json"]
    steps.clear()
    config = msgspec.structs.replace(task.container.config, plain=PlainContainer())
    container = msgspec.structs.replace(task.container, config=config)
    directory.write(msgspec.structs.replace(task, container=container))
    assert steps == [
        "flush .weft.json.copy.new", "replace weft.json.copy", "flush one", "replace weft.json",
    ]  # fmt: skip
