"""Sandboxes: no address and no veth number is held twice, whatever is given and taken back, and whenever the daemon is killed."""

import asyncio
from ipaddress import IPv4Address, IPv4Interface

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import virtual_time
from weft.engine.sandboxes import RecordBook, Records, TaskRecord, choose_gateway, lowest_free
from weft.errors import Exhausted, OperationFailed
from weft.model.assignment import TaskAssignment
from weft.model.sandbox import NodeFacts
from weft.model.service import ContainerSpec, TaskSpec
from weft.model.task import Attachment, TaskState, TaskStatus
from weft.system.value_file import ValueFile

FACTS = NodeFacts(node="n1", data_path_address=IPv4Address("192.0.2.1"))


def task(id, *networks):
    attachments = tuple(Attachment(network, IPv4Interface("10.0.0.2/24")) for network in networks)
    return TaskAssignment(
        id=id, service="s", service_name="s", node="n1", spec=TaskSpec(container=ContainerSpec(image="i")), attachments=attachments
    )  # fmt: skip


def record(id):
    return TaskRecord(container=f"c-{id}", status=TaskStatus(TaskState.ACCEPTED))


def records(tmp_path):
    return Records(ValueFile(tmp_path / "tasks.msgpack", RecordBook))


def test_the_first_address_is_the_one_after_the_ingress_sandboxs():
    assert choose_gateway(FACTS, set(), 0) == IPv4Interface("172.18.0.3/16")


@given(
    st.integers(24, 30),
    st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=120),
)
def test_no_gateway_address_twice_and_none_left_unused(prefix, actions):
    facts = msgspec.structs.replace(FACTS, gateway=IPv4Interface(f"172.18.0.1/{prefix}"))
    usable = facts.gateway.network.num_addresses - 4
    held, cursor = [], 0
    for give, which in actions:
        if give:
            try:
                address = choose_gateway(facts, set(held), cursor).ip
            except Exhausted:
                assert len(held) == usable
                continue
            assert address not in held
            assert address in facts.gateway.network
            assert address not in (facts.gateway.ip, facts.ingress_gateway.ip)
            assert address not in (facts.gateway.network.network_address, facts.gateway.network.broadcast_address)
            held.append(address)
            cursor = int(address)
        elif held:
            held.pop(which % len(held))


def test_an_address_given_back_is_not_at_once_somebody_elses():
    first = choose_gateway(FACTS, set(), 0)
    assert choose_gateway(FACTS, set(), int(first.ip)) != first


@given(st.sets(st.integers(1, 20)))
def test_the_lowest_free_number(used):
    free = lowest_free(used)
    assert free not in used
    assert all(n in used for n in range(1, free))


def test_records_survive_and_numbers_are_per_network(tmp_path):
    async def main():
        book = records(tmp_path)
        for id, networks in (("t1", ("a", "b")), ("t2", ("b",)), ("t3", ("a", "b"))):
            book.put(id, record(id))
            book.give(task(id, *networks), FACTS, f"{id}" * 20)
        await book.saved()
        again = records(tmp_path)
        assert again.all == book.all
        assert again.get("t1").sandbox.ports == {"a": 1, "b": 1}
        assert again.get("t2").sandbox.ports == {"b": 2}
        assert again.get("t3").sandbox.ports == {"a": 2, "b": 3}
        assert len({r.sandbox.gateway for r in again.all.values()}) == 3

    virtual_time.run(main())


def test_the_search_goes_on_after_a_restart_where_it_stopped(tmp_path):
    async def main():
        book = records(tmp_path)
        book.put("t1", record("t1"))
        first = book.give(task("t1", "a"), FACTS, "x" * 64)
        book.forget("t1")
        await book.saved()
        again = records(tmp_path)
        again.put("t2", record("t2"))
        assert again.give(task("t2", "a"), FACTS, "y" * 64).gateway != first.gateway
        again.close()

    virtual_time.run(main())


def test_a_disk_that_refuses_is_reported_to_who_must_know(tmp_path):
    async def main():
        (tmp_path / "file").write_text("")
        book = Records(ValueFile(tmp_path / "file2" / "tasks", RecordBook))
        book.put("t1", record("t1"))
        (tmp_path / "file2").write_text("in the way of the directory")
        with pytest.raises(OperationFailed, match="cannot write"):
            await book.saved()
        await asyncio.sleep(1)

    virtual_time.run(main())


def test_a_file_that_was_cut_short_counts_as_missing(tmp_path):
    path = tmp_path / "tasks"
    file = ValueFile(path, RecordBook)
    assert file.read() is None
    file.write(RecordBook({"t": record("t")}, 7))
    assert file.read() == RecordBook({"t": record("t")}, 7)
    path.write_bytes(path.read_bytes()[:-3])
    assert file.read() is None
