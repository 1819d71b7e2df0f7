"""The whole state of a swarm in memory, with the indexes that the control loops need, and the
changes that lead from one state to the next.

Any part may read a `ClusterState`; only a store changes one, and only through `apply`, which checks
every version before it changes anything. Ring 2 reads the state and returns `Change`s.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar, cast

import msgspec

from weft.errors import Conflict, OutOfSequence, Unavailable
from weft.model.cluster import Cluster
from weft.model.ids import ConfigId, NetworkId, NodeId, SecretId, ServiceId, TaskId
from weft.model.meta import Meta, Nanoseconds
from weft.model.network import Network
from weft.model.node import Node
from weft.model.secret import Config, DataKind, Secret
from weft.model.service import Service
from weft.model.task import Task, TaskState
from weft.model.usage import Usage

Kind = Literal["cluster", "node", "network", "service", "task", "secret", "config"]
KINDS: tuple[Kind, ...] = ("cluster", "node", "network", "service", "task", "secret", "config")
Object = Cluster | Node | Network | Service | Task | Secret | Config
TYPES: Mapping[Kind, type[Object]] = {
    "cluster": Cluster,
    "node": Node,
    "network": Network,
    "service": Service,
    "task": Task,
    "secret": Secret,
    "config": Config,
}
UNIQUE_NAMES = ("network", "service", "secret", "config")

T = TypeVar("T", bound=Object)


def kind_of(obj: Object) -> Kind:
    return cast(Kind, type(obj).__name__.lower())


class Put(msgspec.Struct, frozen=True, gc=False):
    """Write an object. `object.meta.version` is the version that was read; 0 creates it."""

    object: Object

    def __str__(self) -> str:
        verb = "update" if self.object.meta.version else "create"
        return f"{verb} {kind_of(self.object)} {self.object.name}"


class Remove(msgspec.Struct, frozen=True, gc=False):
    kind: Kind
    id: str
    version: int

    def __str__(self) -> str:
        return f"remove {self.kind} {self.id}"


class Check(msgspec.Struct, frozen=True, gc=False):
    """Commit only if this object still has this version (0: still does not exist)."""

    kind: Kind
    id: str
    version: int


Change = Put | Remove | Check


MOST_CHANGES = 2000
"""Most changes in one decision, as each decision is one transaction and stores limit those. The
next run, which follows at once, decides the rest."""


class Decision(msgspec.Struct, frozen=True):
    """The result of a control loop: changes to commit together, and when to run again although
    nothing has changed."""

    changes: tuple[Change, ...] = ()
    wake_at: Nanoseconds | None = None
    unserved: bool = False
    """Whether an object was refused and records the reason. Any change may help it, so the next run
    looks at everything."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One committed change. `before` is None for a creation, `after` for a removal."""

    before: Object | None
    after: Object | None

    @property
    def object(self) -> Object:
        return cast(Object, self.after if self.after is not None else self.before)

    @property
    def kind(self) -> Kind:
        return kind_of(self.object)


class ClusterState:
    """Tables by id, and indexes. Iteration order is creation order."""

    def __init__(self, objects: Iterable[Object] = (), revision: int = 0) -> None:
        self.revision = revision
        self.tables: dict[Kind, dict[str, Object]] = {kind: {} for kind in KINDS}
        self._names: dict[tuple[Kind, str], str] = {}
        self._by_service: dict[ServiceId, dict[TaskId, Task]] = {}
        self._by_node: dict[NodeId | None, dict[TaskId, Task]] = {}
        self._on_network: dict[tuple[Kind, NetworkId], dict[str, Object]] = {}
        self._using: dict[tuple[Kind, DataKind, str], dict[str, Object]] = {}
        self._ingress: dict[str, None] = {}
        self._by_state: dict[TaskState, dict[TaskId, Task]] = {}
        self.usage = Usage()
        for obj in objects:
            self._insert(obj)

    # --- reading

    @property
    def cluster(self) -> Cluster | None:
        return next(iter(self._table("cluster", Cluster).values()), None)

    @property
    def nodes(self) -> Mapping[NodeId, Node]:
        return cast(Mapping[NodeId, Node], self.tables["node"])

    @property
    def networks(self) -> Mapping[NetworkId, Network]:
        return cast(Mapping[NetworkId, Network], self.tables["network"])

    @property
    def services(self) -> Mapping[ServiceId, Service]:
        return cast(Mapping[ServiceId, Service], self.tables["service"])

    @property
    def tasks(self) -> Mapping[TaskId, Task]:
        return cast(Mapping[TaskId, Task], self.tables["task"])

    @property
    def secrets(self) -> Mapping[SecretId, Secret]:
        return cast(Mapping[SecretId, Secret], self.tables["secret"])

    @property
    def configs(self) -> Mapping[ConfigId, Config]:
        return cast(Mapping[ConfigId, Config], self.tables["config"])

    @property
    def ingress(self) -> Network | None:
        return self.networks[NetworkId(next(iter(self._ingress)))] if self._ingress else None

    def named(self, kind: Kind, name: str) -> Object | None:
        """The network, service, secret or config of that exact name."""
        found = self._names.get((kind, name))
        return self.tables[kind][found] if found else None

    def tasks_of(self, service: ServiceId) -> Mapping[TaskId, Task]:
        return self._by_service.get(service, {})

    def tasks_on(self, node: NodeId | None) -> Mapping[TaskId, Task]:
        """Tasks assigned to a node; with None, tasks without a node."""
        return self._by_node.get(node, {})

    def tasks_attached(self, network: NetworkId) -> Mapping[TaskId, Task]:
        """Tasks that hold an address on the network, ended ones included until they are removed."""
        return cast(Mapping[TaskId, Task], self._on_network.get(("task", network), {}))

    def nodes_attached(self, network: NetworkId) -> Mapping[NodeId, Node]:
        """Nodes whose load balancer has an address on the network."""
        return cast(Mapping[NodeId, Node], self._on_network.get(("node", network), {}))

    def services_attached(self, network: NetworkId) -> Mapping[ServiceId, Service]:
        """Services whose tasks are to be on the network."""
        return cast(Mapping[ServiceId, Service], self._on_network.get(("service", network), {}))

    def services_using(self, kind: DataKind, id: str) -> Mapping[ServiceId, Service]:
        """Services whose tasks are to see that secret or config."""
        return cast(Mapping[ServiceId, Service], self._using.get(("service", kind, id), {}))

    def tasks_using(self, kind: DataKind, id: str) -> Mapping[TaskId, Task]:
        """Tasks that refer to that secret or config, ended ones included until they are removed."""
        return cast(Mapping[TaskId, Task], self._using.get(("task", kind, id), {}))

    def tasks_in(self, state: TaskState) -> Mapping[TaskId, Task]:
        """Tasks by observed state."""
        return self._by_state.get(state, {})

    def orphans(self) -> Iterator[Task]:
        """Tasks of services that are gone."""
        for service, tasks in self._by_service.items():
            if service not in self.services:
                yield from tasks.values()

    def is_wanted(self, task: Task) -> bool:
        """Whether the task has a service, or a container that it stands for."""
        return task.service in self.services or task.attached is not None

    def nodes_with_tasks(self) -> list[NodeId]:
        """Every node id that a task names, including nodes that are gone."""
        return [node for node in self._by_node if node is not None]

    def objects(self) -> Iterator[Object]:
        for table in self.tables.values():
            yield from table.values()

    # --- writing, by stores only

    def check(self, changes: Sequence[Change]) -> None:
        """Raises OutOfSequence if an object's version is no longer the one that was read, Conflict
        if a name is taken."""
        taken: dict[tuple[Kind, str], str] = {}
        freed = {c.id for c in changes if isinstance(c, Remove)}
        for change in changes:
            kind, id, version = compared(change)
            current = self.tables[kind].get(id)
            if (current.meta.version if current else 0) != version:
                raise OutOfSequence("update out of sequence")
            if isinstance(change, Put) and kind in UNIQUE_NAMES:
                key = (kind, change.object.name)
                owner = taken.get(key) or self._names.get(key)
                if owner is not None and owner != id and owner not in freed:
                    raise Conflict(f"{kind} with name {change.object.name} already exists")
                taken[key] = id

    def apply(self, changes: Sequence[Change], now: Nanoseconds) -> list[Event]:
        """Checks all changes, then applies all. Every object written gets the next revision as its
        version."""
        self.check(changes)
        self.revision += 1
        events = []
        for change in changes:
            if isinstance(change, Put):
                before = self.tables[kind_of(change.object)].get(change.object.id)
                after = stamped(change.object, self.revision, now)
                if before is not None:
                    self._delete(before)
                self._insert(after)
                events.append(Event(before, after))
            elif isinstance(change, Remove):
                gone = self.tables[change.kind].get(change.id)
                if gone is not None:
                    self._delete(gone)
                    self.tables[change.kind].pop(change.id)
                    events.append(Event(gone, None))
        return events

    def adopt(
        self, revision: int, put: Iterable[Object], removed: Iterable[tuple[Kind, str]] = ()
    ) -> list[Event]:
        """Takes over objects checked, stamped and committed elsewhere. An object that is present in
        the same version causes no event."""
        self.revision = revision
        events = []
        for kind, id in removed:
            gone = self.tables[kind].pop(id, None)
            if gone is not None:
                self._delete(gone)
                events.append(Event(gone, None))
        for after in put:
            before = self.tables[kind_of(after)].get(after.id)
            if before is not None and before.meta.version == after.meta.version:
                continue
            if before is not None:
                self._delete(before)
            self._insert(after)
            events.append(Event(before, after))
        return events

    def _table(self, kind: Kind, type_: type[T]) -> dict[str, T]:
        return cast(dict[str, T], self.tables[kind])

    def _insert(self, obj: Object) -> None:
        kind = kind_of(obj)
        self.tables[kind][obj.id] = obj
        self.usage.count(obj, 1)
        if kind in UNIQUE_NAMES:
            self._names[kind, obj.name] = obj.id
        if isinstance(obj, Network) and obj.spec.ingress:
            self._ingress[obj.id] = None
        for network in _networks_of(obj):
            self._on_network.setdefault((kind, network), {})[obj.id] = obj
        for data, id in _data_of(obj):
            self._using.setdefault((kind, data, id), {})[obj.id] = obj
        if isinstance(obj, Task):
            self._by_service.setdefault(obj.service, {})[obj.id] = obj
            self._by_node.setdefault(obj.node, {})[obj.id] = obj
            self._by_state.setdefault(obj.state, {})[obj.id] = obj

    def _delete(self, obj: Object) -> None:
        """Removes the object from the indexes. Its place in the table stays, so that an update
        keeps the order of creation."""
        kind = kind_of(obj)
        self.usage.count(obj, -1)
        if kind in UNIQUE_NAMES and self._names.get((kind, obj.name)) == obj.id:
            del self._names[kind, obj.name]
        if isinstance(obj, Network):
            self._ingress.pop(obj.id, None)
        for network in _networks_of(obj):
            _drop(self._on_network, (kind, network), obj.id)
        for data, id in _data_of(obj):
            _drop(self._using, (kind, data, id), obj.id)
        if isinstance(obj, Task):
            _drop(self._by_service, obj.service, obj.id)
            _drop(self._by_node, obj.node, obj.id)
            _drop(self._by_state, obj.state, obj.id)


def compared(change: Change) -> tuple[Kind, str, int]:
    """The object that a change is about, and the version that it must have."""
    if isinstance(change, Put):
        return kind_of(change.object), change.object.id, change.object.meta.version
    return change.kind, change.id, change.version


def stamped(obj: Object, revision: int, now: Nanoseconds) -> Object:
    """The object as stored at `revision`. A service whose `spec_version` is 0 gets the revision
    there as well."""
    meta = Meta(revision, obj.meta.created_at or now, now)
    if isinstance(obj, Service) and obj.spec_version == 0:
        return msgspec.structs.replace(obj, meta=meta, spec_version=revision)
    return msgspec.structs.replace(obj, meta=meta)


def _networks_of(obj: Object) -> Iterator[NetworkId]:
    """The networks that the object is on, or is to be on."""
    if isinstance(obj, Task | Node):
        yield from (attachment.network for attachment in obj.attachments)
    elif isinstance(obj, Service):
        yield from (attachment.target for attachment in obj.spec.task.networks)


def _data_of(obj: Object) -> Iterator[tuple[DataKind, str]]:
    """The secrets and configs that the object refers to."""
    if isinstance(obj, Service):
        container = obj.spec.task.container
    elif isinstance(obj, Task):
        container = obj.spec.container
    else:
        return
    yield from (("secret", reference.id) for reference in container.secrets)
    yield from (("config", reference.id) for reference in container.configs)


K = TypeVar("K")
Id = TypeVar("Id", bound=str)


def _drop(index: dict[K, dict[Id, T]], key: K, id: Id) -> None:
    bucket = index.get(key)
    if bucket is not None:
        bucket.pop(id, None)
        if not bucket:
            del index[key]


def cluster_of(state: ClusterState) -> Cluster:
    """Raises `Unavailable` if the state has no cluster yet."""
    if state.cluster is None:
        raise Unavailable("This node is not part of a swarm")
    return state.cluster
