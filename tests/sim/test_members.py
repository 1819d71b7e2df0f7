"""The managers' parts of the store on an etcd in memory, in virtual time: in which order a manager
becomes a worker."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import msgspec
import pytest

from tests.support import virtual_time
from weft.control.requests.nodes import forced_beginning, update
from weft.errors import OperationFailed
from weft.manager.members import DOOR_PATIENCE, Membership
from weft.manager.transaction import transact
from weft.model.certificate import ManagerCertificate
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.node import Node, NodeSpec
from weft.model.state import Change, ClusterState
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.fake import FakeEtcd
from weft.store.etcd.leadership import EtcdLeadership
from weft.store.etcd.migrate import copy

NAMES = ("m1", "m2", "m3", "m4")
FOREVER = 2**62


class World:
    """Managers with doors, which the test may hold open."""

    def __init__(self) -> None:
        self.etcd = FakeEtcd(NAMES)
        self.refused: dict[str, set[str]] = {name: set() for name in NAMES}
        self.may_shut = {name: asyncio.Event() for name in NAMES}
        self.failures = dict.fromkeys(NAMES, 0)
        self.stores: dict[str, EtcdStore] = {}
        self.leaderships: dict[str, EtcdLeadership] = {}
        self.running: dict[str, list[asyncio.Task[None]]] = {}

    async def begin(self, stack: AsyncExitStack) -> None:
        nodes = [
            Node(
                id=NodeId(name), spec=NodeSpec(role="manager"), manager_address=f"{name}:2377", store_peer=f"https://{name}:2380",
                manager_certificates=(ManagerCertificate(f"{name}-certificate", FOREVER),),
            )
            for name in NAMES
        ]  # fmt: skip
        cluster = Cluster(
            id=ClusterId("c"),
            root_ca=RootCa("", ""),
            join_tokens=JoinTokens(worker="w", manager="m"),
        )
        await copy(ClusterState([cluster, *nodes], 1), self.etcd.client("m1"))
        for name in NAMES:
            kv = self.etcd.client(name)
            store = self.stores[name] = await EtcdStore.open(kv, virtual_time.clock)
            stack.push_async_callback(store.close)
            leads = self.leaderships[name] = EtcdLeadership(kv, NodeId(name))
            stack.push_async_callback(leads.close)
            await until(lambda: self.leaderships["m1"].leadership_status.leader == "m1")
            membership = Membership(NodeId(name), store, leads, kv, refuse=self._door(name))
            tasks = [asyncio.create_task(membership.keep_door())]
            if name == "m1":
                tasks.append(asyncio.create_task(membership.run()))
            self.running[name] = tasks
            for task in tasks:
                stack.callback(task.cancel)
        await until(lambda: len(self.leaderships["m1"].leadership_status.present) == len(NAMES))

    def _door(
        self, name: str
    ) -> Callable[[Sequence[ManagerCertificate], ClusterState], Awaitable[None]]:
        async def refuse(certificates: Sequence[ManagerCertificate], state: ClusterState) -> None:
            if self.failures[name]:
                self.failures[name] -= 1
                raise OperationFailed("cannot write revoked.crl: no space left on device")
            if certificates:
                await self.may_shut[name].wait()
            self.refused[name] = {certificate.serial for certificate in certificates}

        return refuse

    async def demote(self, name: str) -> None:
        leadership_status = self.leaderships["m1"].leadership_status

        def change(state: ClusterState) -> list[Change]:
            node = state.nodes[NodeId(name)]
            spec = msgspec.structs.replace(node.spec, role="worker")
            return update(state, node.id, node.meta.version, spec, leadership_status)

        await transact(self.stores["m1"], change)

    def is_member(self, name: str) -> bool:
        return any(member.name == name for member in self.etcd.roster)

    def role(self, name: str) -> str:
        return self.stores["m1"].state.nodes[NodeId(name)].role


def run(main: Callable[[World], Awaitable[None]]) -> None:
    async def body() -> None:
        world = World()
        async with AsyncExitStack() as stack:
            await world.begin(stack)
            await main(world)

    virtual_time.run(body())


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> float:
    began = asyncio.get_running_loop().time()
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
    return asyncio.get_running_loop().time() - began


def test_a_member_is_removed_when_all_managers_in_reach_refuse_its_certificates() -> None:
    async def main(world: World) -> None:
        world.failures["m2"] = 3
        for name in ("m1", "m2", "m4"):
            world.may_shut[name].set()
        await world.demote("m4")
        await asyncio.sleep(DOOR_PATIENCE / 2)
        assert world.refused["m2"] == world.refused["m1"] == {"m4-certificate"}
        assert world.is_member("m4")
        assert world.role("m4") == "manager"
        world.may_shut["m3"].set()
        took = await until(lambda: world.role("m4") == "worker")
        assert took < 1.0
        assert world.refused["m3"] == {"m4-certificate"}
        assert not world.is_member("m4")

    run(main)


def test_one_that_is_out_of_reach_is_not_waited_for_and_refuses_them_when_it_is_back() -> None:
    async def main(world: World) -> None:
        for event in world.may_shut.values():
            event.set()
        world.etcd.cut("m2")
        await until(lambda: "m2" not in world.leaderships["m1"].leadership_status.present)
        await world.demote("m4")
        assert await until(lambda: world.role("m4") == "worker") < 2.0
        assert world.refused["m2"] == set()
        world.etcd.heal("m2")
        await until(lambda: world.refused["m2"] == {"m4-certificate"})
        await until(lambda: world.stores["m1"].state.nodes[NodeId("m2")].refuses == 1)

    run(main)


def test_one_that_is_stuck_is_not_waited_for_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    async def main(world: World) -> None:
        for name in ("m1", "m2"):
            world.may_shut[name].set()
        await world.demote("m4")
        took = await until(lambda: world.role("m4") == "worker")
        assert DOOR_PATIENCE <= took < DOOR_PATIENCE + 2
        assert "member.not_refused managers=m3" in caplog.text

    run(main)


def test_those_whom_a_forced_beginning_leaves_behind_are_refused() -> None:
    async def main(world: World) -> None:
        for event in world.may_shut.values():
            event.set()
        store = world.stores["m1"]
        await store.commit(forced_beginning(store.state, NodeId("m1")))
        await until(lambda: world.refused["m1"] == {f"{name}-certificate" for name in NAMES[1:]})

    run(main)


def test_a_member_that_etcd_keeps_for_now_does_not_keep_in_the_one_that_is_out_of_reach() -> None:
    """etcd removes no member in touch while that would leave too few: the other has to go first."""

    async def main(world: World) -> None:
        for event in world.may_shut.values():
            event.set()
        await world.demote("m4")
        await until(lambda: not world.is_member("m4"))
        world.may_shut["m1"].clear()
        await world.demote("m2")
        await world.demote("m3")
        world.etcd.cut("m3")
        world.may_shut["m1"].set()
        await until(lambda: world.role("m2") == world.role("m3") == "worker")
        assert [member.name for member in world.etcd.roster] == ["m1"]

    run(main)
