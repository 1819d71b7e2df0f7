"""Stores on an etcd in memory, in virtual time: three managers' of one state."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec

from tests.support import virtual_time
from weft.model.ids import NetworkId, ServiceId, TaskId
from weft.model.network import Network, NetworkSpec
from weft.model.service import ContainerSpec, Service, ServiceSpec, TaskSpec
from weft.model.state import ClusterState, Kind, Put
from weft.model.task import Task, TaskState, TaskStatus
from weft.store.etcd.base import Batch, Write
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.fake import FakeClient, FakeEtcd
from weft.store.etcd.migrate import copy
from weft.store.kept import Kept
from weft.store.schema import CURRENT, Schema

SPEC = TaskSpec(container=ContainerSpec(image="demo"))
NAMES = ("m1", "m2", "m3")


def network(name: str, id: str = "") -> Network:
    return Network(id=NetworkId(id or f"id-{name}"), spec=NetworkSpec(name=name))


def service(name: str) -> Service:
    return Service(id=ServiceId(f"id-{name}"), spec=ServiceSpec(name=name, task=SPEC))


def task(id: str, slot: int = 0) -> Task:
    return Task(
        id=TaskId(id),
        service=ServiceId("s"),
        service_name="web",
        spec=SPEC,
        status=TaskStatus(TaskState.NEW),
        slot=slot,
    )


class World:
    def __init__(self) -> None:
        self.etcd = FakeEtcd(NAMES)
        self.stack = AsyncExitStack()

    async def store(self, name: str = "m1", **how: Any) -> EtcdStore:
        store = await EtcdStore.open(self.etcd.client(name), virtual_time.clock, **how)
        self.stack.push_async_callback(store.close)
        return store

    def show(self, name: str, kept: Kept, **how: Any) -> EtcdStore:
        store = EtcdStore.show(self.etcd.client(name), virtual_time.clock, kept, **how)
        self.stack.push_async_callback(store.close)
        return store


def run(main: Callable[[World], Awaitable[None]], state: ClusterState | None = None) -> None:
    async def body() -> None:
        world = World()
        await copy(state or ClusterState(), world.etcd.client("m1"))
        async with world.stack:
            await main(world)

    virtual_time.run(body())


async def until(condition: Callable[..., bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def contents(store: EtcdStore) -> tuple[int, dict[str, list[tuple[str, Any]]]]:
    return store.state.revision, {
        kind: list(table.items()) for kind, table in store.state.tables.items()
    }


class Deaf(FakeClient):
    """Of watches that stand and bring nothing, but those after the first `deaf`."""

    def __init__(self, etcd: FakeEtcd, deaf: int) -> None:
        super().__init__(etcd, etcd.member("m1"))
        self.deaf = deaf

    async def watch(self, key: str, end: str, revision: int) -> AsyncGenerator[Batch, None]:
        self.deaf -= 1
        if self.deaf >= 0:
            yield Batch(())
            await asyncio.Event().wait()
        async for batch in super().watch(key, end, revision):
            yield batch


def rename(kind: Kind, fields: dict[str, Any]) -> dict[str, Any]:
    """A step from a version that had another name for `cursor`."""
    return {"cursor" if key == "pointer" else key: value for key, value in fields.items()}


NEXT = Schema(CURRENT.version + 1, {**CURRENT.steps, CURRENT.version: rename})


async def grow_old(world: World) -> EtcdStore:
    """Networks as the version before `NEXT` would have written them, by a manager that runs it still."""
    store = await world.store("m2")
    await store.commit(
        [
            Put(service("s")),
            *(Put(msgspec.structs.replace(network(f"n{n}"), cursor=n)) for n in range(250)),
        ]
    )
    keyspace = world.etcd.keyspace
    for pair in keyspace.range("/weft/object/network/", "/weft/object/network0"):
        fields = msgspec.msgpack.decode(pair.value)
        fields["pointer"] = fields.pop("cursor", 0)
        keyspace.txn([], [Write(pair.key, msgspec.msgpack.encode(fields))], [])
    return store
