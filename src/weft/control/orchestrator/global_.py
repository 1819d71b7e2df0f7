"""Global services: one task on each node that is up, not drained and meets the constraints. A
paused node keeps its task and gets no new one. Where an earlier task still has to stop (a node that
was down and came back), the new one waits for it.
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
