"""What is wrong with a swarm by its state: nodes that are down, managers that are not heard of,
services whose tasks fail or find no place, networks whose addresses run out.

A swarm that changes is not wrong: tasks may wait and fail for a moment before it is told."""

from collections.abc import Iterable, Iterator

from weft.control.pools import subnets_left
from weft.model.finding import Finding
from weft.model.leadership_status import LeadershipStatus
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import Node, NodeState
from weft.model.service import Service
from weft.model.state import ClusterState, cluster_of
from weft.model.task import Task, TaskState

WAITING = 20 * SECOND
"""A task that has waited for a node so long needs something else than time."""
RECENT = 300 * SECOND
"""Failures before that are history."""
LATELY, OFTEN = 60 * SECOND, 3
"""A service whose tasks have failed so often in that time does not work, although they run."""
FULL = 0.9
"""The part of a network's addresses that may be in use."""
FEW = 4
"""Subnets that are too few, however few there were."""
SPARE = 16
"""Addresses that are enough, however many are in use."""


def examine(
    state: ClusterState, leadership: LeadershipStatus, now: Nanoseconds
) -> Iterator[Finding]:
    for node in state.nodes.values():
        yield from _node(node, leadership)
    for service in state.services.values():
        yield from _service(state, service, now)
    yield from _networks(state)
    yield from _pools(state)


def name_of(node: Node) -> str:
    return node.hostname or node.id


def _node(node: Node, leadership: LeadershipStatus) -> Iterator[Finding]:
    status = node.status
    if status.state in (NodeState.DOWN, NodeState.DISCONNECTED):
        because = f": {status.message}" if status.message else ""
        yield Finding(
            severity="error",
            node=name_of(node),
            what="node",
            cause=f"it is {status.state}{because}",
            remedy="look at its host, its daemon and the way to it",
        )
    elif node.manager_address and node.id not in leadership.present:
        yield Finding(
            severity="error",
            node=name_of(node),
            what="manager",
            cause="the other managers do not hear of it",
            remedy=f"look at its daemon and at TCP ports 2377 and 2380 of {node.manager_address.rpartition(':')[0]}",
        )


def _service(state: ClusterState, service: Service, now: Nanoseconds) -> Iterator[Finding]:
    tasks = list(state.tasks_of(service.id).values())
    wanted = [task for task in tasks if task.desired <= TaskState.RUNNING]
    waiting = _waiting(wanted, now)
    if waiting is not None:
        yield Finding(
            severity="error",
            what=f"service {service.spec.name}",
            cause=f"a task waits for a node: {waiting.status.err or waiting.status.message}",
            remedy=f"docker service ps {service.spec.name}",
        )
    failed = _newest(_failed(tasks, now))
    if failed is not None and _still_fails(service, tasks, now):
        node = state.nodes.get(failed.node) if failed.node is not None else None
        yield Finding(
            severity="error",
            what=f"service {service.spec.name}",
            cause=f"its tasks fail: {failed.status.err or failed.status.message}",
            remedy=f"docker service ps --no-trunc {service.spec.name}; docker service logs {service.spec.name}",
            node=name_of(node) if node is not None else "",
        )


def _failed(tasks: Iterable[Task], now: Nanoseconds) -> list[Task]:
    bad = (TaskState.FAILED, TaskState.REJECTED)
    return [t for t in tasks if t.state in bad and now - t.status.timestamp < RECENT]


def _still_fails(service: Service, tasks: Iterable[Task], now: Nanoseconds) -> bool:
    """Tasks that fail a moment after they began to run are RUNNING at times."""
    live = [task for task in tasks if task.is_live]
    if service.spec.job is not None and not live:
        return not any(task.state is TaskState.COMPLETE for task in tasks)
    if not live or any(task.state is not TaskState.RUNNING for task in live):
        return True
    return sum(now - t.status.timestamp < LATELY for t in _failed(tasks, now)) >= OFTEN


def _waiting(tasks: Iterable[Task], now: Nanoseconds) -> Task | None:
    return _newest(
        task
        for task in tasks
        if task.state is TaskState.PENDING and now - task.status.timestamp >= WAITING
    )


def _newest(tasks: Iterable[Task]) -> Task | None:
    return max(tasks, key=lambda task: task.status.timestamp, default=None)


def _networks(state: ClusterState) -> Iterator[Finding]:
    for network in state.networks.values():
        if network.error:
            yield Finding(
                severity="error",
                what=f"network {network.name}",
                cause=network.error,
                remedy="docker network rm, and create it with a subnet that is free",
            )
        room = sum(max(segment.subnet.num_addresses - 3, 0) for segment in network.segments)
        used = len(state.usage.addresses(network.id))
        if network.segments and room - used < SPARE and used > FULL * room:
            yield Finding(
                severity="warning" if used < room else "error",
                what=f"network {network.name}",
                cause=f"{used} of its {room} addresses are in use",
                remedy="create a larger network (--subnet) and move services there",
            )


def _pools(state: ClusterState) -> Iterator[Finding]:
    """Of the addresses for networks that are created without a subnet."""
    cluster = cluster_of(state)
    left, total = subnets_left(cluster.default_pool, cluster.subnet_size, state.networks.values())
    if left > FEW and left > (1 - FULL) * total:
        return
    pools = ", ".join(map(str, cluster.default_pool))
    yield Finding(
        severity="warning" if left else "error",
        what="default address pool",
        cause=f"{left} of {total} subnets of size /{cluster.subnet_size} are left in {pools}",
        remedy="remove networks that nobody needs, or create networks with --subnet",
    )
