"""The scheduler: gives each pending task a node, or the reason why no node can take it.

Tasks of one service with one specification are placed as a group. The nodes are filtered once; then
each task goes to the best place and is counted there before the next task is placed. So a batch
spreads as evenly as single tasks would. A task that already has a node (of a global service) is
only checked. Tasks whose service has to start after others (`start_order.py`) wait. Only pending
tasks are written.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, islice

import msgspec

from weft.control.allocator.ports import swarm_ports
from weft.control.scheduler.filters import Filter, Place, Requirements, explanation, obstacle
from weft.control.scheduler.ranking import FAILURE_WINDOW, MANY_FAILURES, History, Ranking
from weft.control.scheduler.start_order import awaited
from weft.model.generic import GenericResource
from weft.model.ids import NodeId, ServiceId
from weft.model.meta import APART, Nanoseconds
from weft.model.service import PublishedPort, TaskSpec
from weft.model.state import MOST_CHANGES, Change, ClusterState, Decision, Put
from weft.model.task import Task, TaskState, TaskStatus

ASSIGNED_MESSAGE = "scheduler assigned task to node"


def reconcile(state: ClusterState, now: Nanoseconds) -> Decision:
    pending = [
        task
        for task in state.tasks_in(TaskState.PENDING).values()
        if task.desired <= TaskState.RUNNING
    ]
    if not pending:
        return Decision()
    swarms = swarm_ports(state)
    places = {
        node.id: Place.of(node, state.usage.load(node.id), swarms) for node in state.nodes.values()
    }
    of_services: dict[ServiceId, dict[NodeId, History]] = {}
    """By service: groups of one service with different specifications share the limit of replicas
    per node."""
    changes: list[Change] = []
    for group in _groups(pending):
        service = group[0].service
        if reason := awaited(state, group[0]):
            held = chain.from_iterable(_unplaced(task, reason, now) for task in group)
            changes += islice(held, MOST_CHANGES - len(changes))
            continue
        if service not in of_services:
            of_services[service] = _histories(state, service, now)
        histories = of_services[service]
        mine = _preassigned([t for t in group if t.node is not None], places, histories, now)
        rest = _placed([t for t in group if t.node is None], places, histories, now)
        changes += islice(chain(mine, rest), MOST_CHANGES - len(changes))
    return Decision(tuple(changes))


def _groups(tasks: Iterable[Task]) -> list[list[Task]]:
    """Groups of tasks of one service with equal requirements, in order of slot. Tasks of one
    version mostly share one spec object."""
    groups: list[tuple[ServiceId, TaskSpec, tuple[PublishedPort, ...], list[Task]]] = []
    latest: dict[tuple[ServiceId, int], list[int]] = {}
    for task in sorted(tasks, key=lambda t: (t.slot, t.id)):
        numbers = latest.setdefault((task.service, task.spec_version), [])
        for number in numbers:
            _, spec, ports, members = groups[number]
            if (task.spec is spec or task.spec == spec) and task.ports == ports:
                members.append(task)
                break
        else:
            numbers.append(len(groups))
            groups.append((task.service, task.spec, task.ports, [task]))
    return [members for _, _, _, members in groups]


_FAILURES = {TaskState.FAILED: 1, TaskState.REJECTED: MANY_FAILURES}
"""What an ended task counts. A node that rejects a task lacks something, as a port that another
program has: it will lack that at the next attempt too."""


def _histories(state: ClusterState, service: ServiceId, now: Nanoseconds) -> dict[NodeId, History]:
    histories: dict[NodeId, History] = {}
    for task in state.tasks_of(service).values():
        if task.node is None or task.state < TaskState.ASSIGNED:
            continue
        history = histories.setdefault(task.node, History())
        history.tasks += task.is_live
        if -APART <= now - task.witnessed(task.status.timestamp) < FAILURE_WINDOW:
            history.failures += _FAILURES.get(task.state, 0)
    return histories


def _preassigned(
    tasks: Sequence[Task],
    places: dict[NodeId, Place],
    histories: dict[NodeId, History],
    now: Nanoseconds,
) -> Iterable[Change]:
    for task in tasks:
        place = places.get(task.node) if task.node is not None else None
        if place is None:
            continue
        history = histories.setdefault(place.node.id, History())
        requirements = Requirements.of(task)
        problem = obstacle(requirements, place, history.tasks)
        if problem is not None:
            yield from _unplaced(task, explanation([problem]), now)
            continue
        yield _assigned(task, place, _count(requirements, place, history), now)


def _placed(
    tasks: Sequence[Task],
    places: dict[NodeId, Place],
    histories: dict[NodeId, History],
    now: Nanoseconds,
) -> Iterable[Change]:
    if not tasks:
        return
    requirements = Requirements.of(tasks[0])
    ranking = Ranking(histories, tasks[0].spec.placement.spread)
    obstacles: list[Filter] = []

    def may(place: Place) -> bool:
        problem = obstacle(requirements, place, ranking.tasks(place))
        if problem is not None:
            obstacles.append(problem)
        return problem is None

    for place in places.values():
        if may(place):
            ranking.add(place)
    for task in tasks:
        chosen = ranking.pick(may)
        if chosen is None:
            yield from _unplaced(task, explanation(obstacles), now)
            continue
        claimed = _count(requirements, chosen, ranking.history(chosen))
        ranking.put_back(chosen)
        yield _assigned(task, chosen, claimed, now)


def _count(
    requirements: Requirements, place: Place, history: History
) -> tuple[GenericResource, ...]:
    """Gives the generic resources that the task gets."""
    history.tasks += 1
    return place.take(requirements)


def _assigned(
    task: Task, place: Place, generic: tuple[GenericResource, ...], now: Nanoseconds
) -> Put:
    ports = tuple(_chosen(port, task, place) for port in task.ports)
    status = TaskStatus(TaskState.ASSIGNED, now, ASSIGNED_MESSAGE)
    changed = msgspec.structs.replace(
        task, node=place.node.id, ports=ports, generic=generic, status=status
    )
    return Put(changed)


def _chosen(port: PublishedPort, task: Task, place: Place) -> PublishedPort:
    """The port, with a number if it is a host-mode port left open. (In Docker Swarm the node
    chooses the number. Here it is known before the task starts, and no other task of the node gets
    the same.) On the host's own network, the number can only be the port on which the program
    listens."""
    if port.mode != "host" or port.published:
        return port
    number = port.target if task.spec.host_network else place.free_port(port.host_port)
    chosen = msgspec.structs.replace(port, published=number)
    place.hold(chosen.host_port)
    return chosen


def _unplaced(task: Task, reason: str, now: Nanoseconds) -> Iterable[Change]:
    if task.status.err != reason:
        yield Put(
            msgspec.structs.replace(
                task, status=msgspec.structs.replace(task.status, timestamp=now, err=reason)
            )
        )
