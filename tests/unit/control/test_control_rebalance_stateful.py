"""Anything may happen to a service that is rebalanced, in any order. No decision to move tasks takes
more away than the service allows; left alone, moves end, with the tasks spread as evenly as can be.
"""

from collections import Counter
from contextlib import suppress

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.support.control_room import LOOPS, ControlRoom, Loop
from weft.control.orchestrator.dirty import is_dirty
from weft.control.orchestrator.draft import Slot, slot_of
from weft.control.orchestrator.updater import is_updating
from weft.errors import OutOfSequence
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.labels import REBALANCE
from weft.model.meta import SECOND
from weft.model.node import Availability, NodeState
from weft.model.service import (
    ContainerSpec,
    Resources,
    Service,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from weft.model.state import Decision, Put
from weft.model.task import Task, TaskState

NODES = ("node1", "node2", "node3", "node4")
ENDS = st.sampled_from([TaskState.COMPLETE, TaskState.FAILED, TaskState.REJECTED])
STATES = st.sampled_from([NodeState.READY, NodeState.READY, NodeState.DOWN, NodeState.DISCONNECTED])
AVAILABILITIES: st.SearchStrategy[Availability] = st.sampled_from(["active", "pause", "drain"])
LEFT_ALONE = 6 * 3600 * SECOND


class Rebalanced(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.room = ControlRoom(nodes=2)
        self.stale: tuple[Decision, int] | None = None
        self.id = ServiceId("")

    @initialize(
        replicas=st.integers(1, 8),
        moves=st.sampled_from(["true", "2", "3"]),
        order=st.sampled_from(["start-first", "stop-first"]),
        reserved=st.sampled_from([0, 0, 2 << 30]),
        history=st.sampled_from([0, 1, 5]),
    )
    def create(self, replicas: int, moves: str, order: str, reserved: int, history: int) -> None:
        cluster = self.room.state.cluster
        assert cluster is not None
        kept = msgspec.structs.replace(cluster.spec, task_history=history)
        self.room.put(msgspec.structs.replace(cluster, spec=kept))
        task = TaskSpec(
            container=ContainerSpec(image="one"), reservations=Resources(memory=reserved)
        )
        spec = ServiceSpec(
            name="web",
            replicas=replicas,
            labels={REBALANCE: moves},
            update=UpdateConfig(order=order, failure_action="continue"),  # type: ignore[arg-type]
            task=task,
        )
        self.id = self.room.service(spec)
        self.all_goes_well_for_a_while(2, 6)

    @property
    def service(self) -> Service:
        return self.room.state.services[self.id]

    # --- what may happen

    @rule(id=st.sampled_from(NODES), state=STATES, availability=AVAILABILITIES)
    def change_node(self, id: str, state: NodeState, availability: Availability) -> None:
        if NodeId(id) in self.room.state.nodes:
            self.room.set_node(id, state, availability)
        else:
            self.room.join(id)

    @rule(id=st.sampled_from(NODES))
    def node_comes_back(self, id: str) -> None:
        if NodeId(id) in self.room.state.nodes:
            self.room.set_node(id, NodeState.READY, "active")

    @rule(id=st.sampled_from(NODES))
    def remove_node(self, id: str) -> None:
        if NodeId(id) in self.room.state.nodes and len(self.room.state.nodes) > 2:
            self.room.remove(self.room.state.nodes[NodeId(id)])

    @rule(data=st.data(), state=ENDS)
    def a_task_ends(self, data: st.DataObject, state: TaskState) -> None:
        live = [
            t
            for t in self.room.state.tasks.values()
            if TaskState.ASSIGNED <= t.state <= TaskState.RUNNING
        ]
        if live:
            self.room.report(data.draw(st.sampled_from(live)), state)

    @rule(
        replicas=st.integers(1, 8),
        image=st.sampled_from(["one", "one", "two"]),
        moves=st.sampled_from(["true", "2", "false"]),
    )
    def update_service(self, replicas: int, image: str, moves: str) -> None:
        was = self.service.spec
        container = msgspec.structs.replace(was.task.container, image=image)
        spec = msgspec.structs.replace(
            was,
            replicas=replicas,
            labels={REBALANCE: moves},
            task=msgspec.structs.replace(was.task, container=container),
        )
        self.room.update(self.id, spec)

    @rule(memory=st.sampled_from([2 << 30, 6 << 30]))
    def a_neighbour_comes_or_goes(self, memory: int) -> None:
        others = [s for s in self.room.state.services.values() if s.id != self.id]
        if others:
            self.room.remove(others[0])
        else:
            task = TaskSpec(
                container=ContainerSpec(image="other"), reservations=Resources(memory=memory)
            )
            self.room.service(ServiceSpec(name=f"o{self.room.state.revision}", task=task))

    @rule(seconds=st.sampled_from([1, 6, 31, 61, 301]))
    def time_passes(self, seconds: int) -> None:
        self.room.now += seconds * SECOND

    @rule(steps=st.integers(1, 6))
    def agents_report(self, steps: int) -> None:
        self.room.run_agents(steps)

    # --- the loops

    @rule(loop=st.sampled_from(LOOPS))
    def run_loop(self, loop: Loop) -> None:
        if loop == "orchestrator":
            self.takes_no_more_than_it_may(self.room.decide(loop))
        self.room.run(loop)

    @rule(rounds=st.integers(1, 12), steps=st.sampled_from([1, 2, 6]))
    def all_goes_well_for_a_while(self, rounds: int, steps: int) -> None:
        for _ in range(rounds):
            for loop in LOOPS:
                self.run_loop(loop)
            self.room.run_agents(steps)
            self.room.now += 10 * SECOND

    @rule(loop=st.sampled_from(LOOPS))
    def decide_and_wait(self, loop: Loop) -> None:
        self.stale = self.room.decide(loop), self.room.state.revision

    @rule()
    def commit_late(self) -> None:
        if self.stale is not None:
            with suppress(OutOfSequence):
                self.room.commit(self.stale[0].changes, decided_on=self.stale[1])
        self.stale = None

    def takes_no_more_than_it_may(self, decision: Decision) -> None:
        before = dict(self.room.state.tasks_of(self.id))
        after = dict(before)
        for change in decision.changes:
            obj = change.object if isinstance(change, Put) else None
            if isinstance(obj, Task) and obj.service == self.id:
                after[obj.id] = obj
        slots = {slot_of(task) for task in before.values() if task.desired < TaskState.REMOVE}
        if self._is_changing(before) or self._is_changing(after) or len(slots) > self._wanted:
            return
        stopped = {
            id
            for id, task in before.items()
            if task.serves and not after[id].serves and not self._must_leave(task)
        }
        if not stopped:
            return
        # Those that a node takes with it are not what was decided here.
        lost = {slot_of(task) for task in before.values() if task.serves and self._must_leave(task)}
        kept = serving(after) | lost
        if self.service.spec.update.order == "start-first":
            assert kept == serving(before) | lost
        else:
            assert len(kept) >= self._wanted - self._bound()

    @property
    def _wanted(self) -> int:
        return self.service.spec.replicas or 0

    def _bound(self) -> int:
        text = self.service.spec.labels[REBALANCE]
        return int({"true": "1", "false": "0"}.get(text, text))

    def _is_changing(self, tasks: dict[TaskId, Task]) -> bool:
        """By an update, which takes what it may."""
        return is_updating(self.service) or any(
            is_dirty(self.service, task, self.room.state.nodes.get(task.node or NodeId("")))
            for task in tasks.values()
            if task.is_live
        )

    def _must_leave(self, task: Task) -> bool:
        node = self.room.state.nodes.get(task.node or NodeId(""))
        return (
            node is None
            or node.status.state == NodeState.DOWN
            or (node.spec.availability == "drain")
        )

    # --- what holds in the end

    def teardown(self) -> None:
        if not self.id:
            return
        for id in self.room.state.nodes:
            self.room.set_node(id, NodeState.READY, "active")
        for service in list(self.room.state.services.values()):
            if service.id != self.id:
                self.room.remove(service)
        away = next(iter(self.room.state.nodes))
        self.room.set_node(away, NodeState.DOWN)
        self.all_goes_well_for_a_while(10, 6)
        self.room.set_node(away, NodeState.READY)
        self.runs_on_while_tasks_move()
        created = len(self._created())
        self.room.settle(LEFT_ALONE, rounds=2000)
        for loop in LOOPS:
            assert self.room.decide_anew(loop).changes == ()
        running = self.room.running(self.id)
        assert len({task.slot for task in running}) == len(running) == self._wanted
        if self.service.spec.labels[REBALANCE] == "false":
            assert len(self._created()) == created
            return
        homes = Counter(task.node for task in running)
        counts = [homes[id] for id in self.room.state.nodes]
        assert max(counts) - min(counts) <= 1
        assert len(self._created()) <= created + self._wanted

    def runs_on_while_tasks_move(self) -> None:
        """Agents take their time, and once all tasks serve, no more are missing than may."""
        is_whole = False
        for _ in range(100):
            for loop in LOOPS:
                self.run_loop(loop)
            self.room.run_agents(1)
            self.room.now += 10 * SECOND
            present = dict(self.room.state.tasks_of(self.id))
            is_whole = not self._is_changing(present) and (
                is_whole or len(serving(present)) == self._wanted
            )
            is_careful = self.service.spec.update.order == "start-first"
            missing = 0 if is_careful else self._bound()
            assert not is_whole or len(serving(present)) >= self._wanted - missing

    def _created(self) -> set[str]:
        return {
            event.object.id
            for event in self.room.events
            if isinstance(event.object, Task) and event.object.service == self.id
        }


def serving(tasks: dict[TaskId, Task]) -> set[Slot]:
    return {slot_of(task) for task in tasks.values() if task.serves}


TestRebalanced = Rebalanced.TestCase
TestRebalanced.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
