"""The control loops on a state in memory, in virtual time, with agents that behave: a whole cluster
without a network.

Nothing here is asynchronous. `run(loop)` commits one decision of one loop; `settle()` runs loops
and agents until nothing changes, then moves the clock to the next time a loop asked for, until that
is further off than the patience given. As in a manager the loops are told what happened since their
last decision was committed, and decisions exclude each other.
"""

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import Literal, TypeVar

import msgspec

from weft.control.allocator import allocator
from weft.control.orchestrator import orchestrator
from weft.control.requests import services
from weft.control.scheduler import scheduler
from weft.errors import OutOfSequence
from weft.manager.incremental import Allocation, Orchestration
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import ClusterId, NetworkId, NodeId, ServiceId, TaskId
from weft.model.meta import SECOND, Nanoseconds
from weft.model.network import Network, NetworkSpec
from weft.model.node import (
    Availability,
    Node,
    NodeDescription,
    NodeSpec,
    NodeState,
    NodeStatus,
    Role,
)
from weft.model.service import JobStatus, Resources, Service, ServiceSpec
from weft.model.state import Change, ClusterState, Decision, Event, Object, Put, Remove, kind_of
from weft.model.task import Task, TaskState, TaskStatus

Loop = Literal["orchestrator", "allocator", "scheduler"]
LOOPS: tuple[Loop, ...] = ("orchestrator", "allocator", "scheduler")
T = TypeVar("T", bound=Object)

_STEPS = (
    TaskState.ASSIGNED, TaskState.ACCEPTED, TaskState.PREPARING, TaskState.READY, TaskState.STARTING, TaskState.RUNNING,
)  # fmt: skip
START: Nanoseconds = 1_000_000 * SECOND


class NotSettled(AssertionError):
    """The loops went on changing things."""


class ControlRoom:
    def __init__(self, nodes: int = 0) -> None:
        self.now = START
        self.state = ClusterState()
        self.failing: set[str] = set()
        """Images of which the container exits with an error before it is seen running."""
        self.events: list[Event] = []
        self.decided = 0
        """The revision of the last commit of a decision, or of a user's."""
        self._orchestration = Orchestration(lambda: TaskId(self.new_id("task")))
        self._allocation = Allocation(())
        self._news: dict[Loop, list[Event] | None] = dict.fromkeys(LOOPS)
        self._count = 0
        self.put(
            Cluster(id=ClusterId("cluster"), root_ca=RootCa("", ""), join_tokens=JoinTokens("", ""))
        )
        self.network(NetworkSpec(name="ingress", ingress=True))
        for number in range(1, nodes + 1):
            self.join(f"node{number}")

    # --- what users and nodes do

    def commit(
        self, changes: Iterable[Change], independent: bool = False, decided_on: int | None = None
    ) -> list[Event]:
        """See `store.base.Store.commit`. `decided_on`: the revision, if not the present one."""
        if not independent:
            if decided_on is not None and decided_on < self.decided:
                raise OutOfSequence("update out of sequence")
            self.decided = self.state.revision + 1
        events = self.state.apply(tuple(changes), self.now)
        self.events += events
        for news in self._news.values():
            if news is not None:
                news += events
        return events

    def put(self, obj: T) -> T:
        """Writes an object, over whatever version is there."""
        current = self.state.tables[kind_of(obj)].get(obj.id)
        version = current.meta.version if current else 0
        meta = msgspec.structs.replace(obj.meta, version=version)
        self.commit([Put(msgspec.structs.replace(obj, meta=meta))])
        return obj

    def remove(self, obj: Object) -> None:
        self.commit([Remove(kind_of(obj), obj.id, obj.meta.version)])

    def new_id(self, kind: str) -> str:
        self._count += 1
        return f"{kind}{self._count:06}"

    def join(
        self,
        id: str,
        role: Role = "worker",
        labels: dict[str, str] | None = None,
        resources: Resources | None = None,
    ) -> NodeId:
        number = len(self.state.nodes) + 1
        description = NodeDescription(
            hostname=id, resources=resources or Resources(4_000_000_000, 8 << 30)
        )
        spec = NodeSpec(role=role, labels=labels or {})
        status = NodeStatus(NodeState.READY, since=self.now)
        vtep = IPv4Address("192.0.2.0") + number
        return self.put(
            Node(
                id=NodeId(id),
                spec=spec,
                description=description,
                status=status,
                data_path_address=vtep,
            )
        ).id

    def set_node(
        self, id: str, state: NodeState | None = None, availability: Availability | None = None
    ) -> None:
        node = self.state.nodes[NodeId(id)]
        status = (
            node.status
            if state is None
            else msgspec.structs.replace(node.status, state=state, since=self.now)
        )
        spec = (
            node.spec
            if availability is None
            else msgspec.structs.replace(node.spec, availability=availability)
        )
        self.put(msgspec.structs.replace(node, status=status, spec=spec))

    def network(self, spec: NetworkSpec) -> NetworkId:
        return self.put(Network(id=NetworkId(self.new_id("net")), spec=spec)).id

    def service(self, spec: ServiceSpec) -> ServiceId:
        """Not checked: some tests ask for what is refused."""
        job_status = None if spec.job is None else JobStatus(last_execution=self.now)
        return self.put(
            Service(id=ServiceId(self.new_id("svc")), spec=spec, job_status=job_status)
        ).id

    def update(self, id: ServiceId, spec: ServiceSpec) -> None:
        """As a user does it."""
        version = self.state.services[id].meta.version
        self.commit(services.update(self.state, id, version, spec, self.now))

    # --- what the loops and agents do

    def decide(self, loop: Loop) -> Decision:
        if loop == "orchestrator":
            return self._orchestration.reconcile(self.state, self.now, self._news[loop])
        if loop == "allocator":
            return self._allocation.reconcile(self.state, self.now, self._news[loop])
        return scheduler.reconcile(self.state, self.now)

    def decide_anew(self, loop: Loop) -> Decision:
        """As somebody who knows nothing of the past and looks at everything."""
        if loop == "orchestrator":
            return orchestrator.reconcile(self.state, self.now, lambda: TaskId(self.new_id("task")))
        if loop == "allocator":
            return allocator.reconcile(self.state, self.now)
        return scheduler.reconcile(self.state, self.now)

    def run(self, loop: Loop) -> Decision:
        decision = self.decide(loop)
        self._news[loop] = []
        if decision.changes:
            self.commit(decision.changes)
        return decision

    def run_agents(self, steps: int = 1) -> bool:
        """Each agent in reach takes each of its tasks `steps` further; False if there was nothing
        to do."""
        reports = [
            Put(moved)
            for task in list(self.state.tasks.values())
            if (moved := self._moved(task, steps)) is not None
        ]
        if reports:
            self.commit(reports, independent=True)
        return bool(reports)

    def report(self, task: Task, state: TaskState, err: str = "") -> None:
        self.put(task.observed(TaskStatus(state, self.now, state.name.lower(), err)))

    def _moved(self, task: Task, steps: int) -> Task | None:
        node = self.state.nodes.get(task.node) if task.node is not None else None
        if (
            node is None
            or node.status.state != NodeState.READY
            or not TaskState.ASSIGNED <= task.state <= TaskState.RUNNING
        ):
            return None
        if task.desired > TaskState.RUNNING:
            state = TaskState.SHUTDOWN
        else:
            reached = _STEPS[min(_STEPS.index(task.state) + steps, len(_STEPS) - 1)]
            state = min(reached, task.desired)
            if state == TaskState.RUNNING and task.spec.container.image in self.failing:
                state = TaskState.FAILED
        return (
            None
            if state == task.state
            else task.observed(TaskStatus(state, self.now, state.name.lower()))
        )

    def settle(
        self,
        patience: Nanoseconds = 120 * SECOND,
        loops: tuple[Loop, ...] = LOOPS,
        rounds: int = 400,
    ) -> None:
        """Until nothing changes and no loop wants to look again within `patience`. Raises
        `NotSettled`."""
        deadline = self.now + patience
        for _ in range(rounds):
            decisions = [self.run(loop) for loop in loops]
            if self.run_agents(len(_STEPS)) or any(d.changes for d in decisions):
                continue
            wakes = [
                d.wake_at for d in decisions if d.wake_at is not None and d.wake_at <= deadline
            ]
            if not wakes:
                return
            self.now = max(self.now + 1, min(wakes))
        raise NotSettled(
            f"still changing after {rounds} rounds:"
            f" {[str(c) for loop in loops for c in self.decide(loop).changes]}"
        )

    def until(self, condition: Callable[[], bool], rounds: int = 400) -> None:
        """Runs the loops, agents and the clock until the condition holds."""
        for _ in range(rounds):
            if condition():
                return
            decisions = [self.run(loop) for loop in LOOPS]
            if not self.run_agents(len(_STEPS)) and not any(d.changes for d in decisions):
                self.now = min(
                    (d.wake_at for d in decisions if d.wake_at is not None),
                    default=self.now + SECOND,
                )
        raise NotSettled("the condition never held")

    # --- what there is to see

    def running(self, service: ServiceId) -> list[Task]:
        tasks = self.state.tasks_of(service).values()
        return sorted(
            (t for t in tasks if t.is_live and t.state == TaskState.RUNNING),
            key=lambda t: (t.slot, t.node or ""),
        )
