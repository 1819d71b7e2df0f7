"""Global services: one task on each node that is up, not drained and meets the constraints. A
paused node keeps its task and gets no new one. A new task waits while an earlier task on the node
still has to stop (on a node that was down and came back).
"""

from weft.control.orchestrator import nodes
from weft.control.orchestrator.draft import Draft
from weft.control.orchestrator.restart import is_filled
from weft.model.task import TaskState


def cover(draft: Draft) -> None:
    spec = draft.service.spec.task
    slots = draft.slots()
    for node in draft.state.nodes.values():
        tasks = slots.get(node.id, [])
        if nodes.is_closed(spec, node):
            for task in tasks:
                if task.desired <= TaskState.RUNNING:
                    draft.desire(task, TaskState.SHUTDOWN)
        elif nodes.is_open(spec, node) and not is_filled(draft, tasks):
            draft.create(node.id, TaskState.READY, draft.now)
