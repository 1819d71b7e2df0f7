"""Decides about tasks whose node goes down, is drained, no longer fits, or is gone.

A task that has to leave its node is told to shut down; the restart supervisor creates its
replacement. A task ends only when its agent says so, or when no agent can any longer: the node was
removed, or has been down for a day. Until then the task holds its addresses.
"""

import msgspec

from weft.control.orchestrator.draft import Draft
from weft.control.scheduler.constraints import parse, satisfied
from weft.errors import InvalidArgument
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import Node, NodeState
from weft.model.service import TaskSpec
from weft.model.task import Task, TaskState, TaskStatus

ORPHANED_AFTER: Nanoseconds = 24 * 3600 * SECOND
CONSTRAINTS_BROKEN = "assigned node no longer meets constraints"


def orphan_lost(draft: Draft) -> None:
    """Ends the tasks that no agent will ever report on again."""
    for task in list(draft.tasks.values()):
        if task.node is None or task.state.is_terminal:
            continue
        node = draft.node_of(task)
        if node is None:
            draft.put(_orphaned(task, draft.now, "the node was removed"))
        elif is_down(node):
            # A time to come is no reason to give tasks up: it was stored before a clock was set back.
            gone_at = min(node.status.since, draft.now) + ORPHANED_AFTER
            if draft.now >= gone_at:
                draft.put(_orphaned(task, draft.now, "the node has been down for 24 hours"))
            else:
                draft.wake(gone_at)


def _orphaned(task: Task, now: Nanoseconds, cause: str) -> Task:
    return msgspec.structs.replace(
        task, status=TaskStatus(TaskState.ORPHANED, now, "orphaned", cause, task.status.container)
    )


def must_leave(draft: Draft, task: Task) -> bool:
    """Whether the task has to leave its node."""
    node = draft.node_of(task)
    return node is not None and (is_unavailable(node) or not fits(task.spec, node))


def is_down(node: Node) -> bool:
    return node.status.state == NodeState.DOWN


def is_unavailable(node: Node | None) -> bool:
    return node is None or is_down(node) or node.spec.availability == "drain"


def is_closed(spec: TaskSpec, node: Node) -> bool:
    """Whether the node must give up the task of a global service."""
    return is_unavailable(node) or not fits(spec, node)


def is_open(spec: TaskSpec, node: Node) -> bool:
    """Whether the node takes a new task of a global service. A paused node keeps its task and takes
    no new one."""
    return node.spec.availability == "active" and not is_closed(spec, node)


def fits(spec: TaskSpec, node: Node) -> bool:
    """Whether the node satisfies the constraints."""
    if not spec.placement.constraints:
        return True
    try:
        return satisfied(parse(spec.placement.constraints), node)
    except InvalidArgument:
        return False
