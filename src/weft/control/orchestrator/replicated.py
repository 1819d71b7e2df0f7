"""Replicated services: as many filled slots as replicas. New slots get the lowest free numbers.
Scaling down removes slots without a running task first, then slots on the nodes that have most
tasks of the service. If a user chose addresses for the slots, slots without one are given up for
slots that have one.
"""

from collections.abc import Mapping
from itertools import islice

from weft.control.orchestrator.draft import Draft, Slot
from weft.control.orchestrator.restart import is_filled
from weft.model.ids import NodeId
from weft.model.state import MOST_CHANGES
from weft.model.task import Task, TaskState

MOST_WAITING = 5000
"""Most tasks of one service that wait for a node or for their containers. More tasks are created as
these run. So a swarm without room for three hundred thousand tasks need not store them, and a user
who meant thirty need not wait until they are gone."""


def scale(draft: Draft) -> None:
    most = draft.service.spec.most_slots
    replicas = draft.service.spec.replicas or 0
    replicas = replicas if most is None else min(replicas, most)
    slots = draft.slots()
    filled = {
        number: tasks
        for number, tasks in slots.items()
        if is_filled(draft, tasks) and _is_within(most, number)
    }
    if len(filled) < replicas:
        free = (number for number in range(1, replicas + len(filled) + 1) if number not in filled)
        for _ in range(min(replicas - len(filled), MOST_CHANGES, MOST_WAITING - _waiting(filled))):
            draft.create(next(free), TaskState.RUNNING)
        return
    kept = set(_by_worth(filled)[:replicas]) if len(filled) > replicas else filled.keys()
    for number in islice((number for number in slots if number not in kept), MOST_CHANGES):
        for task in slots[number]:
            draft.desire(task, TaskState.REMOVE)


def _is_within(most: int | None, number: Slot) -> bool:
    return most is None or (isinstance(number, int) and number <= most)


def _waiting(slots: Mapping[Slot, list[Task]]) -> int:
    """Number of tasks that are meant to run and do not run yet."""
    return sum(
        task.is_live and task.state < TaskState.RUNNING
        for tasks in slots.values()
        for task in tasks
    )


def _by_worth(slots: Mapping[Slot, list[Task]]) -> list[Slot]:
    """The slots, those to keep first (swarmkit orchestrator/replicated/slot.go): a slot is the n-th
    on its node, and low n come first."""
    current = {
        number: next((t for t in reversed(tasks) if t.is_live), tasks[-1])
        for number, tasks in slots.items()
    }
    ordered = sorted(current, key=lambda number: (not current[number].is_healthy, number))
    copies: dict[NodeId | None, int] = {}
    worth: dict[Slot, tuple[bool, int]] = {}
    for number in ordered:
        task = current[number]
        copies[task.node] = copies.get(task.node, 0) + 1
        worth[number] = (not task.is_healthy, copies[task.node])
    return sorted(ordered, key=lambda number: worth[number])
