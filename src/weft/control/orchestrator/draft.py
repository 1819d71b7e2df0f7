"""A working copy of one service and its tasks: each step of the orchestrator sees what earlier
steps decided, and each object is written once, however many steps changed it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.node import Node
from weft.model.service import Service
from weft.model.state import Change, ClusterState, Put, Remove
from weft.model.task import Task, TaskState, TaskStatus

Slot = int | NodeId
"""The place that a task fills: a slot of a replicated service, or a node of a global one."""


class Draft:
    def __init__(
        self, state: ClusterState, id: ServiceId, now: Nanoseconds, new_id: Callable[[], TaskId]
    ) -> None:
        self.state = state
        self.now = now
        self.tasks: dict[TaskId, Task] = dict(state.tasks_of(id))
        """The tasks as they will be."""
        self.wake_at: Nanoseconds | None = None
        self._nodes = state.nodes
        self._slots: dict[Slot, list[Task]] | None = None
        self._before = state.tasks_of(id)
        self._new_id = new_id
        self._service = state.services.get(id)
        self._original = self._service

    @property
    def service(self) -> Service:
        """The service. Raises `LookupError` if it is gone."""
        if self._service is None:
            raise LookupError("the service is gone")
        return self._service

    @property
    def exists(self) -> bool:
        return self._service is not None

    def put_service(self, service: Service) -> None:
        self._service = service

    def put(self, task: Task) -> None:
        self.tasks[task.id] = task
        self._slots = None

    def desire(self, task: Task, desired: TaskState) -> Task:
        """Never lowers the desired state: a task told to stop never runs again."""
        if desired > task.desired:
            task = msgspec.structs.replace(task, desired=desired)
        if self.tasks[task.id] is not task:
            self.put(task)
        return task

    def remove(self, task: Task) -> None:
        del self.tasks[task.id]
        self._slots = None

    def create(self, slot: Slot, desired: TaskState, restart_at: Nanoseconds = 0) -> Task:
        """A new task of the service as it is now."""
        service = self.service
        task = Task(
            id=self._new_id(),
            service=service.id,
            service_name=service.name,
            service_labels=service.spec.labels,
            slot=0 if isinstance(slot, str) else slot,
            node=slot if isinstance(slot, str) else None,
            spec=service.spec.task,
            spec_version=service.spec_version,
            ports=service.spec.endpoint.ports,
            desired=desired,
            restart_at=restart_at,
            job_iteration=service.iteration,
            status=TaskStatus(TaskState.NEW, self.now, "created"),
        )
        self.put(task)
        return task

    def node_of(self, task: Task) -> Node | None:
        return self._nodes.get(task.node) if task.node is not None else None

    def slots(self) -> Mapping[Slot, list[Task]]:
        """The draft's present tasks by slot, oldest first, without the tasks that are to be
        removed."""
        if self._slots is None:
            self._slots = self._by_slot()
        return self._slots

    def _by_slot(self) -> dict[Slot, list[Task]]:
        slots: dict[Slot, list[Task]] = {}
        for task in self.tasks.values():
            if task.desired < TaskState.REMOVE:
                slots.setdefault(slot_of(task), []).append(task)
        for tasks in slots.values():
            if len(tasks) > 1:
                tasks.sort(key=age)
        return slots

    def wake(self, at: Nanoseconds) -> None:
        """Asks for another run at that time at the latest."""
        self.wake_at = at if self.wake_at is None else min(at, self.wake_at)

    def parts(self) -> Iterable[Sequence[Change]]:
        """The changes in parts: the service, then one part per slot. A part may be committed
        without the parts after it, since the next run decides those anew. A slot's old and new task
        are in the same part."""
        if self._service is not None and self._service != self._original:
            yield (Put(self._service),)
        slots: dict[Slot, list[Change]] = {}
        for id, task in self._before.items():
            if id not in self.tasks:
                slots.setdefault(slot_of(task), []).append(Remove("task", id, task.meta.version))
        for id, task in self.tasks.items():
            before = self._before.get(id)
            if before is not task and before != task:
                slots.setdefault(slot_of(task), []).append(Put(task))
        yield from slots.values()


def slot_of(task: Task) -> Slot:
    return task.slot or task.node or 0


def age(task: Task) -> tuple[bool, Nanoseconds, TaskId]:
    """Sort key: oldest first; a task that is not stored yet is newest."""
    return task.meta.version == 0, task.meta.created_at, task.id
