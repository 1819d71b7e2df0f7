"""What an agent leaves on its disk, and what it does not."""

from pathlib import Path

import msgspec

from tests.support.swarms import Swarm
from weft.agent.disk import Disk
from weft.model import codec
from weft.model.assignment import Assignment
from weft.model.encryption import DataKey
from weft.model.secret import Payload

SECRET = "hunter2"


class WithMore(Assignment, frozen=True, kw_only=True):
    """What an assignment may be one day."""

    passwords: dict[str, str]


def assignment() -> Assignment:
    swarm = Swarm(2)
    swarm.service("web", swarm.network("mynet", "10.10.10.0/24", encrypted=True), on=[1, 2])
    return msgspec.structs.replace(
        swarm.assignment(1), revision=7, keys=(DataKey(tag=1, secret=b"k" * 16),)
    )


def test_the_next_daemon_finds_what_was_kept(tmp_path: Path) -> None:
    assert Disk(tmp_path).assignment() is None
    Disk(tmp_path).keep(assignment())
    assert Disk(tmp_path).assignment() == assignment()
    Disk(tmp_path).remove()
    assert list(tmp_path.iterdir()) == []


def test_configs_are_kept_in_files_of_their_own_and_go_when_no_task_needs_them(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path)
    configs = {id: Payload(id=id, data=f"data of {id}".encode()) for id in ("c1", "c2")}
    gone = {"c3": Payload(id="c3", is_gone=True), "../x": Payload(id="../x", data=b"x")}
    disk.keep(msgspec.structs.replace(assignment(), configs=configs | gone))
    assert Disk(tmp_path).assignment() == msgspec.structs.replace(assignment(), configs=configs)
    written = (tmp_path / "configs" / "c2").stat()
    disk.keep(msgspec.structs.replace(assignment(), configs={"c2": configs["c2"]}))
    assert [path.name for path in (tmp_path / "configs").iterdir()] == ["c2"]
    assert (tmp_path / "configs" / "c2").stat() == written
    disk.keep(assignment())
    assert not (tmp_path / "configs").exists()


def test_a_file_of_an_earlier_daemon_is_read(tmp_path: Path) -> None:
    (tmp_path / "assignment.msgpack").write_bytes(codec.encode(assignment()))
    assert Disk(tmp_path).assignment() == assignment()


def test_what_is_not_meant_for_the_disk_does_not_get_there(tmp_path: Path) -> None:
    fields = {name: getattr(assignment(), name) for name in Assignment.__struct_fields__}
    more = WithMore(**fields, passwords={"password": SECRET})
    more = msgspec.structs.replace(more, secrets={"s1": Payload(id="s1", data=SECRET.encode())})
    assert codec.encode(more).count(SECRET.encode()) == 2
    Disk(tmp_path).keep(more)
    [file] = tmp_path.iterdir()
    assert SECRET.encode() not in file.read_bytes()
    assert Disk(tmp_path).assignment() == assignment()
