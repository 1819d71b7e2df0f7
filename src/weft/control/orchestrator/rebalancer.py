"""The rebalancer: moves tasks of a replicated service to nodes that have fewer of them, for instance
after a node came back. Only services that ask for it by a label are rebalanced
(`model/labels.py`), a few slots at a time, and never while they are updated.

A move is a new task in the same slot, on a node that is chosen here with the scheduler's own
filters; the scheduler checks the node once more. Start-first, the old task runs until the new one
does. Stop-first, the new one is prepared and runs when the old one has stopped.

Nothing is remembered between passes. A slot is *settled* if it has one live task, which is healthy
and on a node that is ready. Slots that are not settled, whatever the reason, use up the number of
moves: so the next move waits for the last one, and a service that is short of tasks gives none
away.

Each move makes the difference between two nodes smaller, so moves end. What could start them again
and again is a node that does not keep what it gets: one that comes and goes, or on which the tasks
fail. Such a node rests (`_rests_until`).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from weft.control.orchestrator.dirty import is_dirty
from weft.control.orchestrator.draft import Draft, age, slot_of
from weft.control.orchestrator.restart import may_restart
from weft.control.orchestrator.updater import is_paused, is_updating
from weft.control.scheduler.filters import Place, Requirements, obstacle
from weft.control.scheduler.start_order import awaited
from weft.errors import InvalidArgument
from weft.model.ids import NodeId
from weft.model.labels import moves_at_once
from weft.model.meta import SECOND, Nanoseconds, bounded
from weft.model.node import Node, NodeState
from weft.model.service import ServiceSpec
from weft.model.task import Task, TaskState

STEADY: Nanoseconds = 30 * SECOND
"""How long a node must have been ready before tasks are moved to it."""
REST: Nanoseconds = 300 * SECOND
"""A node gets no task by a move for this long after it was given one that it did not keep. As long
as the scheduler remembers failures (`ranking.FAILURE_WINDOW`)."""
LONGEST = 12
"""A node on which tasks fail rests at most this many times as long: an hour."""
PATIENCE: Nanoseconds = 10 * SECOND
"""How long a moved task waits for room that was there when its node was chosen."""
LOOK_AGAIN: Nanoseconds = 60 * SECOND
"""How often to look whether other services have made room or have started: no event says so."""


def rebalance(draft: Draft) -> None:
    service = draft.service
    if service.spec.is_global:
        return
    _finish(draft)
    bound = _bound(service.spec)
    if not bound or is_updating(service) or is_paused(service):
        return
    slots = draft.slots()
    unsettled = sum(not _is_settled(draft, tasks) for tasks in slots.values())
    missing = max((service.spec.replicas or 0) - len(slots), 0)
    if unsettled + missing >= bound:
        return
    if _waits_for_others(draft):
        draft.wake(draft.now + LOOK_AGAIN)
        return
    moves = _Moves(draft)
    while moves.made < bound - unsettled - missing and moves.make():
        pass


def asks(spec: ServiceSpec) -> bool:
    """Whether the service is to be rebalanced, so that changes of nodes concern it."""
    return _bound(spec) > 0


def _bound(spec: ServiceSpec) -> int:
    """Most slots that may be moving at a time; 0: none. A service that was stored before the label
    had a meaning may have any value in it."""
    if spec.job is not None or spec.is_global or spec.task.placement.spread:
        return 0
    try:
        return moves_at_once(spec.labels)
    except InvalidArgument:
        return 0


# --- moves under way


def _finish(draft: Draft) -> None:
    """Ends moves, also of a service that does not ask for them any longer or is being updated."""
    for tasks in list(draft.slots().values()):
        live = [task for task in tasks if task.is_live]
        if live and _has_no_room(live[-1]):
            give_up = (live[-1].meta.created_at or draft.now) + PATIENCE
            give_up = bounded(give_up, PATIENCE, draft.now)
            if draft.now >= give_up:
                draft.desire(live.pop(), TaskState.SHUTDOWN)
            else:
                draft.wake(give_up)
        if len(live) > 1 and live[-1].is_healthy and _are_alike(draft, live):
            for task in live[:-1]:
                draft.desire(task, TaskState.SHUTDOWN)


def _has_no_room(task: Task) -> bool:
    """The scheduler has refused the node that was chosen here: meanwhile something else has taken
    the room. If it stays so, the slot's old task stays, or the slot is filled anew on any node."""
    is_moved = task.slot > 0 and task.node is not None
    return is_moved and task.state == TaskState.PENDING and bool(task.status.err)


def _are_alike(draft: Draft, tasks: Iterable[Task]) -> bool:
    """Whether the tasks do not differ by an update; those that do are the updater's."""
    return len({is_dirty(draft.service, task, draft.node_of(task)) for task in tasks}) == 1


def _is_settled(draft: Draft, tasks: Sequence[Task]) -> bool:
    """Whether nothing is under way in the slot. `tasks`: all of the slot, oldest first."""
    live = [task for task in tasks if task.is_live]
    if not live:
        return not may_restart(draft, tasks, tasks[-1])
    return len(live) == 1 and _runs(draft, live[0])


def _runs(draft: Draft, task: Task) -> bool:
    node = draft.node_of(task)
    is_ready = node is not None and node.status.state == NodeState.READY
    return is_ready and task.is_healthy and task.desired == TaskState.RUNNING


# --- new moves


def _waits_for_others(draft: Draft) -> bool:
    """Whether a new task would have to wait until other services have started."""
    service = draft.service
    return any(
        awaited(draft.state, msgspec.structs.replace(task, spec_version=service.spec_version))
        for task in islice(draft.tasks.values(), 1)
    )


class _Moves:
    """Moves decided in one pass, each counted before the next is chosen."""

    def __init__(self, draft: Draft) -> None:
        self.made = 0
        self._draft = draft
        self._homes: Counter[NodeId] = Counter()
        """Slots per node once all moves are over."""
        self._present: Counter[NodeId] = Counter()
        """Live tasks per node now."""
        self._movable: dict[NodeId, list[Task]] = {}
        """Oldest first."""
        self._places: dict[NodeId, Place] = {}
        for tasks in draft.slots().values():
            self._count(tasks)
        for tasks in self._movable.values():
            tasks.sort(key=age)

    def _count(self, tasks: Sequence[Task]) -> None:
        live = [task for task in tasks if task.is_live and task.node is not None]
        for task in live:
            if task.node is not None:
                self._present[task.node] += 1
        newest = live[-1] if live else None
        if newest is None or newest.node is None:
            return
        self._homes[newest.node] += 1
        is_movable = len(live) == 1 and _runs(self._draft, newest)
        if is_movable and may_restart(self._draft, tasks, newest):
            self._movable.setdefault(newest.node, []).append(newest)

    def make(self) -> bool:
        """Moves one task from the fullest node that can give one to the emptiest that may take it.
        False if that would not make the difference smaller."""
        if not self._movable:
            return False
        fullest = max(self._movable, key=lambda id: (self._homes[id], id))
        task = self._movable[fullest][-1]  # the youngest: it has the least to lose
        place = self._emptiest(task, self._homes[fullest] - 2)
        if place is None:
            return False
        self._movable[fullest].pop()
        if not self._movable[fullest]:
            del self._movable[fullest]
        self._homes[fullest] -= 1
        self._homes[place.node.id] += 1
        self._present[place.node.id] += 1
        _move(self._draft, task, place.node)
        self.made += 1
        return True

    def _emptiest(self, task: Task, most: int) -> Place | None:
        """The node with fewest slots, at most `most`, that takes another task of the service; of
        equal ones that with fewest tasks, as the scheduler ranks them."""
        service, now = self._draft.service, self._draft.now
        spec, ports = service.spec.task, service.spec.endpoint.ports
        needs = Requirements.of(msgspec.structs.replace(task, spec=spec, ports=ports))
        found: list[Place] = []
        for node in self._draft.state.nodes.values():
            if self._homes[node.id] > most:
                continue
            place = self._place(node)
            if obstacle(needs, place, self._present[node.id]) is not None:
                if needs.ports or needs.reservations.nano_cpus or needs.reservations.memory:
                    self._draft.wake(now + LOOK_AGAIN)
            elif (until := _rests_until(self._draft, node)) > now:
                self._draft.wake(until)
            else:
                found.append(place)
        best = min(found, key=lambda p: (self._homes[p.node.id], p.tasks, p.node.id), default=None)
        if best is not None:
            best.take(needs)
        return best

    def _place(self, node: Node) -> Place:
        if node.id not in self._places:
            self._places[node.id] = Place.of(node, self._draft.state.usage.load(node.id))
        return self._places[node.id]


def _rests_until(draft: Draft, node: Node) -> Nanoseconds:
    """When tasks may be moved to the node. It must have been ready for a while. If it was given a
    task of the service that is over or told to stop, it rests from then on, the longer the more
    tasks failed there: it may be flapping, lack something that the task needs, or have given the
    task away."""
    lost = [task for task in draft.tasks.values() if task.node == node.id and not task.is_live]
    failures = sum(task.state in (TaskState.FAILED, TaskState.REJECTED) for task in lost)
    steady = bounded(node.status.since + STEADY, STEADY, draft.now)
    given = max((task.meta.created_at or draft.now for task in lost), default=None)
    rest = REST * min(max(failures, 1), LONGEST)
    return steady if given is None else max(steady, bounded(given + rest, rest, draft.now))


def _move(draft: Draft, task: Task, node: Node) -> None:
    if draft.service.spec.update.order == "start-first":
        new = draft.create(slot_of(task), TaskState.RUNNING)
    else:
        draft.desire(task, TaskState.SHUTDOWN)
        new = draft.create(slot_of(task), TaskState.READY, draft.now)
    draft.put(msgspec.structs.replace(new, node=node.id))
