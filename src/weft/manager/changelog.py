"""Logs each commit: one line for each change that users may search for, with the ids that the
docker command shows.

So `service=` finds the course of one request and `task=` that of one task, from the manager that
took the request to the node that runs the task:

    service.created → task.created → task.allocated → task.placed → (at its node) task.accepted …
    container.started → task.running

`describe` is called before the commit, while the old objects still exist, and `write` after it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from weft.model.cluster import Cluster
from weft.model.network import Network
from weft.model.node import Node
from weft.model.secret import Config, Secret
from weft.model.service import Service
from weft.model.state import Change, ClusterState, Kind, Object, Put, Remove, kind_of
from weft.model.task import Task, TaskState

log = logging.getLogger(__name__)


class Line(NamedTuple):
    message: str
    arguments: tuple[object, ...]


def describe(state: ClusterState, changes: Sequence[Change]) -> list[Line]:
    """Empty while the logger drops messages of level INFO."""
    if not log.isEnabledFor(logging.INFO):
        return []
    return [line for change in changes for line in _described(state, change)]


def write(lines: Sequence[Line]) -> None:
    for line in lines:
        log.info(line.message, *line.arguments)


def _described(state: ClusterState, change: Change) -> Iterator[Line]:
    if isinstance(change, Put):
        kind = kind_of(change.object)
        yield from _WRITTEN[kind](state.tables[kind].get(change.object.id), change.object)
    elif isinstance(change, Remove) and change.id in state.tables[change.kind]:
        yield from _removed(state.tables[change.kind][change.id])


def _removed(gone: Object) -> Iterator[Line]:
    match gone:
        case Service():
            yield Line("service.removed service=%s name=%s", (gone.id, gone.name))
        case Network():
            yield Line("network.removed network=%s name=%s", (gone.id, gone.name))
        case Node():
            yield Line("node.removed node=%s hostname=%s", (gone.id, gone.hostname))
        case Secret() | Config():
            yield Line(f"{kind_of(gone)}.removed {kind_of(gone)}=%s name=%s", (gone.id, gone.name))
        case Task():
            yield Line("task.removed task=%s service=%s", (gone.id, gone.service))


def _service(old: Object | None, new: Object) -> Iterator[Line]:
    assert isinstance(new, Service)
    if not isinstance(old, Service):
        yield Line("service.created service=%s name=%s", (new.id, new.name))
        return
    if new.spec != old.spec:
        yield Line("service.updated service=%s name=%s", (new.id, new.name))
    if new.endpoint != old.endpoint:
        ports = ",".join(f"{port.published}/{port.protocol}" for port in new.endpoint.ports)
        addresses = ",".join(str(virtual.address.ip) for virtual in new.endpoint.addresses)
        yield Line("service.allocated service=%s addresses=%s ports=%s", (new.id, addresses, ports))
    if new.update_status != old.update_status and new.update_status is not None:
        status = new.update_status
        yield Line(
            "service.update service=%s state=%s cause=%r", (new.id, status.state, status.message)
        )


def _network(old: Object | None, new: Object) -> Iterator[Line]:
    assert isinstance(new, Network)
    if not isinstance(old, Network):
        yield Line("network.created network=%s name=%s", (new.id, new.name))
    elif new.segments != old.segments:
        subnets = ",".join(str(segment.subnet) for segment in new.segments)
        vnis = ",".join(str(segment.vni) for segment in new.segments)
        yield Line("network.allocated network=%s subnets=%s vnis=%s", (new.id, subnets, vnis))
    if new.error and (not isinstance(old, Network) or new.error != old.error):
        yield Line("network.not_allocated network=%s cause=%r", (new.id, new.error))


def _node(old: Object | None, new: Object) -> Iterator[Line]:
    assert isinstance(new, Node)
    spec = new.spec
    if not isinstance(old, Node):
        yield Line("node.created node=%s hostname=%s role=%s", (new.id, new.hostname, spec.role))
        return
    if spec != old.spec:
        words = (spec.role, spec.availability)
        yield Line(
            "node.updated node=%s hostname=%s role=%s availability=%s",
            (new.id, new.hostname, *words),
        )
    if new.status.state != old.status.state:
        status = (str(new.status.state), new.status.message)
        yield Line(
            "node.state node=%s hostname=%s state=%s cause=%r", (new.id, new.hostname, *status)
        )


def _task(old: Object | None, new: Object) -> Iterator[Line]:
    assert isinstance(new, Task)
    ids = (new.id, new.service)
    if not isinstance(old, Task):
        yield Line("task.created task=%s service=%s name=%s", (*ids, new.name))
    before = old if isinstance(old, Task) else None
    if new.attachments != (before.attachments if before else ()):
        addresses = ",".join(str(attachment.address.ip) for attachment in new.attachments)
        yield Line("task.allocated task=%s service=%s addresses=%s", (*ids, addresses))
    if new.node != (before.node if before else None):
        yield Line("task.placed task=%s service=%s node=%s", (*ids, new.node))
    if before is not None and new.desired != before.desired:
        yield Line("task.desired task=%s service=%s desired=%s", (*ids, new.desired.name.lower()))
    yield from _status(before, new)


def _status(before: Task | None, new: Task) -> Iterator[Line]:
    """The node logs the steps before RUNNING. A cause that keeps a task waiting is logged once."""
    old, state = before.status if before else None, new.state
    if state >= TaskState.RUNNING and (old is None or old.state != state):
        values = (new.id, new.service, new.node, state.name.lower(), new.status.err)
        yield Line("task.state task=%s service=%s node=%s state=%s cause=%r", values)
    elif (
        state < TaskState.RUNNING and new.status.err and (old is None or old.err != new.status.err)
    ):
        yield Line("task.waits task=%s service=%s cause=%r", (new.id, new.service, new.status.err))


def _data(old: Object | None, new: Object) -> Iterator[Line]:
    """A secret or a config; never the data."""
    kind, verb = kind_of(new), "created" if old is None else "updated"
    yield Line(f"{kind}.{verb} {kind}=%s name=%s", (new.id, new.name))


def _cluster(old: Object | None, new: Object) -> Iterator[Line]:
    """The line omits what changed: the cluster object holds tokens, keys and the authority's
    key."""
    assert isinstance(new, Cluster)
    yield Line(
        "cluster.updated cluster=%s" if old is not None else "cluster.created cluster=%s", (new.id,)
    )


_WRITTEN: dict[Kind, Callable[[Object | None, Object], Iterator[Line]]] = {
    "service": _service,
    "network": _network,
    "node": _node,
    "task": _task,
    "secret": _data,
    "config": _data,
    "cluster": _cluster,
}
