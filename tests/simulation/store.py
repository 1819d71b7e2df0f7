"""What managers of a simulation keep their state in, and what every commit is shown to.

Several managers share `SimEtcd`, which outlives all of them. One alone has a `SimDisk`: what it
wrote is there when it is opened again.
"""

import asyncio
from collections.abc import Callable, Sequence

from weft.daemon.opening import ANSWER_PATIENCE
from weft.daemon.role_steps import StoreKind
from weft.errors import OperationFailed, Unavailable
from weft.model.ids import NodeId
from weft.model.state import ClusterState, Kind, Object, Remove, kind_of
from weft.store.base import Leadership, Store
from weft.store.engine import Clock, Engine
from weft.store.etcd.base import Answer, Compare, Kv, Operation
from weft.store.etcd.engine import EtcdStore
from weft.store.etcd.fake import FakeEtcd
from weft.store.etcd.leadership import EtcdLeadership
from weft.store.etcd.rows import PREFIX, Keys, from_value
from weft.store.sole import SoleLeader

Seen = Callable[[int, Sequence[Object], Sequence[tuple[Kind, str]]], None]
"""Is told of each commit: its revision, what was written, what was removed."""


class SimDisk:
    """The disk of the one manager."""

    kind: StoreKind = "alone"

    def __init__(self, clock: Clock, seen: Seen) -> None:
        self._clock, self._seen = clock, seen
        self.objects: dict[tuple[Kind, str], Object] = {}
        self.revision = 0
        self.full = False

    async def open(self, host: str, node: NodeId) -> tuple[Store, Leadership, Kv | None]:
        return self.store(), SoleLeader(node), None

    def begin(self, host: str, peer_url: str) -> None:
        raise OperationFailed("nobody shares this store")

    def has(self, host: str) -> bool:
        return True

    def store(self) -> "DiskStore":
        return DiskStore(self._clock, ClusterState(self.objects.values(), self.revision), self)

    def write(self, revision: int, put: Sequence[Object], removed: Sequence[Remove]) -> None:
        if self.full:
            raise OperationFailed("cannot commit: database or disk is full")
        self.revision = revision
        gone = [(change.kind, change.id) for change in removed]
        for key in gone:
            self.objects.pop(key, None)
        self.objects.update({(kind_of(obj), obj.id): obj for obj in put})
        self._seen(revision, put, gone)


class DiskStore(Engine):
    def __init__(self, clock: Clock, state: ClusterState, disk: SimDisk) -> None:
        super().__init__(clock, state)
        self._disk = disk

    def _write(self, revision: int, put: Sequence[Object], removed: Sequence[Remove]) -> None:
        self._disk.write(revision, put, removed)


class SimEtcd(FakeEtcd):
    kind: StoreKind = "shared"

    def __init__(self, names: Sequence[str], clock: Callable[[str], Clock], seen: Seen) -> None:
        """`clock`: of the host with that name."""
        super().__init__(names)
        self._clock, self._seen = clock, seen
        self._keys = Keys(PREFIX)

    async def open(self, host: str, node: NodeId) -> tuple[Store, Leadership, Kv | None]:
        if not self.has(host):
            raise Unavailable(f"{host} has no part of the store any more")
        kv = self.client(host)
        try:
            async with asyncio.timeout(ANSWER_PATIENCE):
                await kv.status()
        except TimeoutError:
            store = EtcdStore.show(kv, self._clock(host), self.kept(host))
        else:
            store = await EtcdStore.open(kv, self._clock(host))
        return store, EtcdLeadership(kv, node), kv

    def begin(self, host: str, peer_url: str) -> None:
        if not any(member.name == host for member in self.roster):
            self.start(host, peer_url)

    def has(self, host: str) -> bool:
        return any(member.name == host for member in self.roster)

    def commit(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> Answer:
        before = self.keyspace.revision
        answer = super().commit(compares, then, otherwise)
        if self.keyspace.revision > before:
            self._show(self.keyspace.revision)
        return answer

    def _show(self, revision: int) -> None:
        put: list[Object] = []
        removed: list[tuple[Kind, str]] = []
        found = self.keyspace.get(self._keys.base)
        version = revision + (int(found.value) if found is not None else 0)
        for change in self.keyspace.log[-1][1]:
            if not change.key.startswith(self._keys.objects):
                continue
            kind, id = self._keys.parse(change.key)
            if change.value is None:
                removed.append((kind, id))
            else:
                put.append(from_value(kind, id, change.value, version))
        if put or removed:
            self._seen(version, put, removed)
