"""What was given to tasks is known whenever the daemon is killed, and no veth number is held
twice."""

import asyncio
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from tests.support import virtual_time
from weft.agent.records import RecordBook, Records, TaskRecord
from weft.errors import OperationFailed
from weft.model.ids import ContainerId, NetworkId, NodeId, TaskId, WorkloadId
from weft.model.sandbox import NodeFacts
from weft.model.service import ContainerSpec
from weft.model.task import Attachment, TaskState, TaskStatus
from weft.model.workload import Workload
from weft.system.value_file import ValueFile

FACTS = NodeFacts(node=NodeId("n1"), data_path_address=IPv4Address("192.0.2.1"))


def workload(id: str, *networks: str) -> Workload:
    attachments = tuple(
        Attachment(NetworkId(network), IPv4Interface("10.0.0.2/24")) for network in networks
    )
    return Workload(
        id=WorkloadId(id), name=f"s.1.{id}", spec=ContainerSpec(image="i"), attachments=attachments
    )


def record(id: str) -> TaskRecord:
    return TaskRecord(container=ContainerId(f"c-{id}"), status=TaskStatus(TaskState.ACCEPTED))


def records(tmp_path: Path) -> Records:
    return Records(ValueFile(tmp_path / "tasks.msgpack", RecordBook))


def test_records_survive_and_numbers_are_per_network(tmp_path: Path) -> None:
    async def main() -> None:
        book = records(tmp_path)
        for id, networks in (("t1", ("a", "b")), ("t2", ("b",)), ("t3", ("a", "b"))):
            book.put(TaskId(id), record(id))
            book.give(workload(id, *networks), FACTS, f"{id}" * 20)
        await book.saved()
        again = records(tmp_path)
        assert again.all == book.all
        held = {id: r.sandbox for id, r in again.all.items() if r.sandbox is not None}
        assert {id: sandbox.ports for id, sandbox in held.items()} == {
            "t1": {"a": 1, "b": 1},
            "t2": {"b": 2},
            "t3": {"a": 2, "b": 3},
        }
        assert len({sandbox.gateway for sandbox in held.values()}) == 3

    virtual_time.run(main())


def test_the_search_goes_on_after_a_restart_where_it_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        book = records(tmp_path)
        book.put(TaskId("t1"), record("t1"))
        first = book.give(workload("t1", "a"), FACTS, "x" * 64)
        book.forget(TaskId("t1"))
        await book.saved()
        again = records(tmp_path)
        again.put(TaskId("t2"), record("t2"))
        assert again.give(workload("t2", "a"), FACTS, "y" * 64).gateway != first.gateway
        again.close()

    virtual_time.run(main())


def test_a_disk_that_refuses_is_reported_to_who_must_know(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("")
        book = Records(ValueFile(tmp_path / "file2" / "tasks", RecordBook))
        book.put(TaskId("t1"), record("t1"))
        (tmp_path / "file2").write_text("in the way of the directory")
        with pytest.raises(OperationFailed, match="cannot write"):
            await book.saved()
        await asyncio.sleep(1)

    virtual_time.run(main())


def test_a_file_that_was_cut_short_counts_as_missing(tmp_path: Path) -> None:
    path = tmp_path / "tasks"
    file = ValueFile(path, RecordBook)
    assert file.read() is None
    file.write(RecordBook({TaskId("t"): record("t")}, 7))
    assert file.read() == RecordBook({TaskId("t"): record("t")}, 7)
    path.write_bytes(path.read_bytes()[:-3])
    assert file.read() is None
