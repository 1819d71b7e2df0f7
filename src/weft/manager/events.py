"""The swarm's part of `docker events`: creation, change and removal of services, networks, nodes,
secrets and configs.

A value that a control loop writes for itself (an address, a cursor) makes no event. A change that a
user could see in a list does."""

from collections.abc import AsyncIterator, Callable
from typing import Literal

from weft.model.container import NodeEvent
from weft.model.meta import Nanoseconds
from weft.model.network import Network
from weft.model.node import Node
from weft.model.secret import Config, Secret
from weft.model.service import Service
from weft.model.state import Event
from weft.store.base import Store

Shown = Literal["network", "node", "service", "secret", "config"]
KINDS: tuple[Shown, ...] = ("network", "node", "service", "secret", "config")


async def node_events(store: Store, clock: Callable[[], Nanoseconds]) -> AsyncIterator[NodeEvent]:
    """Yields events as they are committed, without end."""
    subscription = store.subscribe(KINDS)
    try:
        while True:
            for event in await subscription.next():
                shown = node_event(event, clock())
                if shown is not None:
                    yield shown
    finally:
        subscription.close()


def node_event(event: Event, now: Nanoseconds) -> NodeEvent | None:
    """None for a change that users cannot see. `now` is the time of a removal; all other events
    carry their own."""
    if event.kind not in KINDS:
        return None
    attributes = {"name": _name(event)}
    if event.before is not None and event.after is not None:
        changed = _changed(event)
        if changed is None:
            return None
        attributes |= changed
    return NodeEvent(
        type=event.kind,
        action="create" if event.before is None else "remove" if event.after is None else "update",
        id=event.object.id,
        attributes=attributes,
        time=event.after.meta.updated_at if event.after is not None else now,
        scope="swarm",
    )


def _name(event: Event) -> str:
    return event.object.hostname if isinstance(event.object, Node) else event.object.name


def _changed(event: Event) -> dict[str, str] | None:
    """The attributes of an update (`replicas.new`, `state.old`…), as Docker names them; None if
    nothing visible changed."""
    before, after = event.before, event.after
    if isinstance(before, Service) and isinstance(after, Service):
        attributes = _pair("replicas", before.spec.replicas, after.spec.replicas)
        old, new = before.update_status, after.update_status
        attributes |= _pair("updatestate", old.state if old else None, new.state if new else None)
        return attributes if attributes or before.spec != after.spec else None
    if isinstance(before, Node) and isinstance(after, Node):
        attributes = _pair("state", before.status.state, after.status.state)
        attributes |= _pair("availability", before.spec.availability, after.spec.availability)
        attributes |= _pair("role", before.spec.role, after.spec.role)
        return attributes if attributes or before.spec != after.spec else None
    if isinstance(before, Network | Secret | Config) and isinstance(after, type(before)):
        return {} if before.spec != after.spec else None
    return None


def _pair(name: str, old: object, new: object) -> dict[str, str]:
    """`<name>.new` and `<name>.old` if they differ; a value of None is left out."""
    if old == new:
        return {}
    return {
        f"{name}.{side}": str(value)
        for side, value in (("new", new), ("old", old))
        if value is not None
    }
