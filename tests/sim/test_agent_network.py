"""How an agent keeps the network of its host, on virtual time: repairs, addresses and networks that
are missing, operations that the kernel refuses."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from tests.support import virtual_time
from tests.support.agent_rig import WEB, Rig, rig, simulated
from weft.engine.network import AUDIT
from weft.errors import OperationFailed
from weft.linux.fake import FakeKernel
from weft.model.ids import WorkloadId
from weft.model.task import TaskState
from weft.network.diff import diff
from weft.network.flows import Answered, Asked, Stale
from weft.network.kernel_state import HOST, KernelState
from weft.network.operations import Operation, RemoveLink, RemoveNamespace, RemoveTable, SetSysctl


@simulated
async def test_a_node_without_an_address_on_the_ingress_network_says_so(tmp_path: Path) -> None:
    made = Rig(tmp_path / "data", tasks=1)
    del made.swarm.endpoints[made.swarm.ingress][f"lb-{made.swarm.nodes[0]}"]
    made.start()
    await made.until_all(TaskState.REJECTED, 60)
    assert (
        made.manager.statuses[made.tasks[0]].err
        == "node is missing network attachments, ip addresses may be exhausted"
    )
    await made.check_gone()
    await made.stop()


@simulated
async def test_a_network_of_which_the_node_is_not_told_is_waited_for_and_then_missed(
    tmp_path: Path,
) -> None:
    made = Rig(tmp_path / "data", tasks=1)
    made.manager.without = {made.net}
    made.start()
    await made.until_all(TaskState.PREPARING)
    await asyncio.sleep(20)
    made.manager.without.clear()
    await made.manager.tell()
    await made.until_all(TaskState.RUNNING, 2)
    await made.stop()


@simulated
async def test_on_a_full_network_the_task_does_without_the_nodes_own_address(
    tmp_path: Path,
) -> None:
    made = Rig(tmp_path / "data", tasks=1)
    del made.swarm.endpoints[made.net][f"lb-{made.swarm.nodes[0]}"]
    made.start()
    await made.until_all(TaskState.RUNNING, 2)
    await made.stop()


@pytest.mark.parametrize("vandal", range(4))
def test_what_others_do_to_the_network_is_repaired_within_two_seconds(
    tmp_path: Path, vandal: int
) -> None:
    async def main() -> None:
        async with rig(tmp_path) as r:
            await r.until_all(TaskState.RUNNING)
            await asyncio.sleep(1)
            desired = r.planned(*r.agent.connections.residents)
            before = await r.kernel.read(desired)
            assert r.agent.engine.network.repairs == 0
            overlay = f"1-{r.net[:10]}"
            table = next(iter(before[HOST].tables))
            deeds: list[Operation] = [
                RemoveLink(overlay, "vxlan0"), RemoveNamespace(overlay), RemoveNamespace(f"lb_{r.net[:9]}"),
                RemoveTable(HOST, *table),
            ]  # fmt: skip
            await r.kernel.apply([deeds[vandal]])
            assert diff(await r.kernel.read(desired), desired)
            await asyncio.sleep(2)
            assert not diff(await r.kernel.read(desired), desired)
            assert r.agent.engine.network.repairs > 0
            assert r.agent.applied_revision == r.agent.assignment.revision
            await r.check_running()

    virtual_time.run(main())


@simulated
async def test_a_kernel_that_refuses_one_tasks_network_does_not_hold_up_the_others(
    tmp_path: Path,
) -> None:
    class Refusing(FakeKernel):
        victim = ""

        async def apply(self, operations: Sequence[Operation]) -> None:
            refused = [op for op in operations if self.victim and self.victim in str(op)]
            await super().apply([op for op in operations if op not in refused])
            if refused:
                raise OperationFailed(f"cannot run {refused[0]}: no")

    made = Rig(tmp_path / "data", tasks=2)
    made.kernel = Refusing()
    made.kernel.victim = hashlib.sha256(b"2").hexdigest()[:12]
    made.start()
    await made.until(
        lambda: set(made.states().values()) == {TaskState.RUNNING, TaskState.REJECTED}, 20
    )
    [failed] = [s for s in made.manager.statuses.values() if s.state == TaskState.REJECTED]
    assert failed.err.startswith("cannot run ")
    assert len(made.runtime.running()) == 1
    await made.stop()


@simulated
async def test_no_container_starts_without_the_rules_that_keep_it_from_its_host(
    tmp_path: Path,
) -> None:
    class Refusing(FakeKernel):
        table = ""

        async def apply(self, operations: Sequence[Operation]) -> None:
            refused = [
                op for op in operations
                if f"table ip {self.table} {{" in str(op) and op.namespace == HOST
            ]  # fmt: skip
            await super().apply([op for op in operations if op not in refused])
            if refused:
                raise OperationFailed("cannot apply nft table: no")

    for table in ("weft", "weft-underlay"):
        made = Rig(tmp_path / table)
        made.kernel = Refusing()
        made.kernel.table = table
        made.start()
        await made.until_all(TaskState.REJECTED)
        assert {s.err for s in made.manager.statuses.values()} == {"cannot apply nft table: no"}
        assert made.runtime.running() == []
        await made.stop()


@simulated
async def test_the_end_is_not_told_while_the_kernel_still_holds_the_sandbox(tmp_path: Path) -> None:
    async with rig(tmp_path, tasks=2) as r:
        await r.until_all(TaskState.RUNNING)
        task = r.tasks[0]
        key = next(s.key for s in r.agent.connections.sandboxes if s.workload == WorkloadId(task))
        for _ in range(12):
            r.kernel.fail_next(lambda op: isinstance(op, RemoveNamespace) and op.namespace == key)
        began = asyncio.get_running_loop().time()
        await r.manager.want(task, TaskState.SHUTDOWN)
        await r.until(lambda: r.states()[task] == TaskState.SHUTDOWN)
        assert key not in await r.namespaces()
        assert asyncio.get_running_loop().time() - began > 1


@simulated
async def test_flows_leave_a_task_that_no_longer_serves_once_the_rules_say_so(
    tmp_path: Path,
) -> None:
    flushed: list[tuple[str, frozenset[Stale]]] = []

    async def flush(namespace: str, flows: frozenset[Stale]) -> None:
        flushed.append((namespace, flows))

    made = Rig(tmp_path / "data")
    made.flush_flows = flush
    made.start()
    await made.until_all(TaskState.RUNNING)
    published = {Asked(port.protocol, port.published) for port in WEB}
    assert {flow for _, flows in flushed for flow in flows} == published, "older than their ports"
    flushed.clear()
    gone = made.swarm.tasks[made.tasks[0]]
    made.swarm.set_serving(gone.id, False)
    await made.manager.tell()
    await asyncio.sleep(1)
    addresses = {frozenset({Answered(a.address.ip)}) for a in gone.attachments}
    assert {flows for _, flows in flushed} == addresses
    assert {space for space, _ in flushed} == {
        HOST,
        f"lb_{made.net[:9]}",
        *(s.key for s in made.agent.connections.sandboxes),
    }
    await made.stop()


@simulated
async def test_flows_are_forgotten_after_the_rules_have_changed_and_not_before(
    tmp_path: Path,
) -> None:
    """Also while those of the round before are being forgotten."""
    early: list[tuple[str, Stale]] = []
    made = Rig(tmp_path / "data", tasks=6)

    async def flush(namespace: str, flows: frozenset[Stale]) -> None:
        tables = made.kernel.spaces[namespace].tables.values()
        services = [service for table in tables for service in table.services.values()]
        served = {backend.address for service in services for backend in service.backends}
        early.extend(
            (namespace, flow)
            for flow in flows
            if isinstance(flow, Answered) and flow.address in served
        )
        await asyncio.sleep(0.06)

    made.flush_flows = flush
    made.start()
    await made.until_all(TaskState.RUNNING)
    await asyncio.sleep(1)
    made.kernel.latency = 0.02
    for task in made.tasks:
        made.swarm.set_serving(task, False)
        await made.manager.tell()
        await asyncio.sleep(0.3)
    await asyncio.sleep(10)
    assert early == []
    await made.stop()


@simulated
async def test_no_task_runs_where_its_network_has_the_addresses_of_the_gateway_bridge(
    tmp_path: Path,
) -> None:
    """The manager cannot know: the host chose another subnet than the usual one after the network
    was made."""
    made = Rig(tmp_path / "data", tasks=0)
    hidden = made.swarm.network("hidden", "172.18.7.0/24")
    inner = made.swarm.network("inner", "172.18.8.0/24", internal=True)
    [refused] = made.swarm.service("refused", hidden, on=[1])
    [kept] = made.swarm.service("kept", inner, on=[1])
    made.start()
    states = {refused: TaskState.REJECTED, kept: TaskState.RUNNING}
    await made.until(lambda: {id: s.state for id, s in made.manager.statuses.items()} == states)
    overlap = "its subnet 172.18.7.0/24 overlaps docker_gwbridge of this host (172.18.0.0/16)"
    assert made.manager.statuses[refused].err == f"cannot connect to network hidden: {overlap}"
    assert made.manager.hellos[0].routes == ("172.18.0.0/16", "192.0.2.0/24")
    await made.stop()


@simulated
async def test_a_setting_that_cannot_be_had_holds_up_nothing(tmp_path: Path) -> None:
    """Nor is all of the kernel read anew because of it, again and again."""
    flushed: list[str] = []
    read: list[set[str] | None] = []

    class Refusing(FakeKernel):
        async def apply(self, operations: Sequence[Operation]) -> None:
            refused = [
                op for op in operations if isinstance(op, SetSysctl) and op.namespace == HOST
            ]
            await super().apply([op for op in operations if op not in refused])
            if refused:
                raise OperationFailed(f"cannot apply {refused[0]}: no")

        async def read(
            self, desired: KernelState, only: Iterable[str] | None = None
        ) -> KernelState:
            read.append(None if only is None else set(only))
            return await super().read(desired, only)

    async def flush(namespace: str, flows: frozenset[Stale]) -> None:
        flushed.append(namespace)

    made = Rig(tmp_path / "data", tasks=60)
    made.kernel, made.flush_flows = Refusing(), flush
    made.start()
    await made.until_all(TaskState.RUNNING)
    network = made.agent.networking.loop
    assert {type(f.operation) for f in network.failures} == {SetSysctl}
    flushed.clear()
    made.swarm.set_serving(made.tasks[0], False)
    await made.manager.tell()
    await asyncio.sleep(AUDIT * 2)
    assert {HOST, *(s.key for s in made.agent.connections.sandboxes)} <= set(flushed)
    read.clear()
    await asyncio.sleep(AUDIT * 3)
    assert {len(names) for names in read if names is not None} == {1}
    assert read.count(None) in (2, 3, 4), "the audits"
    await made.stop()
