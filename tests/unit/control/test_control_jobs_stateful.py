"""Anything may happen to a job, in any order: completions, failures, nodes that are cut off and come
back with what they did meanwhile, drains, updates, new leaders. At no time more slots run than may,
a slot that has completed never runs again, and left alone the job ends with one completion in each
slot, or on each node.
"""

from contextlib import suppress

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.control_room import LOOPS, ControlRoom, Loop
from weft.control.orchestrator.draft import Slot, slot_of
from weft.control.orchestrator.progress import progress
from weft.control.orchestrator.restart import BESIDE_GRACE, OLD_TASK_TIMEOUT
from weft.control.requests import services
from weft.errors import OutOfSequence
from weft.model.ids import NodeId, ServiceId, TaskId
from weft.model.meta import SECOND
from weft.model.node import Availability, NodeState
from weft.model.service import ContainerSpec, Job, RestartPolicy, Service, ServiceSpec, TaskSpec
from weft.model.state import Decision
from weft.model.task import Task, TaskState

POLICIES = (
    RestartPolicy("any"),
    RestartPolicy("on-failure"),
    RestartPolicy("none"),
    RestartPolicy("on-failure", max_attempts=2),
)
ENDS = st.sampled_from([TaskState.COMPLETE, TaskState.COMPLETE, TaskState.FAILED])
STATES = st.sampled_from([NodeState.READY, NodeState.DOWN, NodeState.DISCONNECTED])
AVAILABILITIES: st.SearchStrategy[Availability] = st.sampled_from(["active", "pause", "drain"])
NEVER_STOPS = OLD_TASK_TIMEOUT + BESIDE_GRACE


class JobLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.room = ControlRoom(nodes=3)
        self.stale: tuple[Decision, int] | None = None
        self.unreported: dict[TaskId, TaskState] = {}
        """How tasks ended on nodes that could not report it."""
        self.returned: set[NodeId] = set()
        """Nodes that were down. What they still run was given up."""
        self.completed: dict[Slot, set[TaskId]] = {}
        """Slots that completed in `iteration`, with all tasks that they had by then."""
        self.iteration = -1

    @initialize(
        data=st.data(),
        is_global=st.booleans(),
        policy=st.sampled_from(POLICIES),
        history=st.sampled_from([0, 1, 5]),
    )
    def create(
        self, data: st.DataObject, is_global: bool, policy: RestartPolicy, history: int
    ) -> None:
        cluster = self.room.state.cluster
        assert cluster is not None
        kept = msgspec.structs.replace(cluster.spec, task_history=history)
        self.room.put(msgspec.structs.replace(cluster, spec=kept))
        self.policy = policy
        self.id: ServiceId = self.room.service(self.drawn_spec(data, is_global))

    def drawn_spec(self, data: st.DataObject, is_global: bool) -> ServiceSpec:
        most = None if is_global else data.draw(st.integers(0, 3))
        return ServiceSpec(
            name="job",
            replicas=None if is_global else data.draw(st.integers(0, 5)),
            job=Job(most),
            task=TaskSpec(container=ContainerSpec(image="one"), restart=self.policy),
        )

    @property
    def service(self) -> Service:
        return self.room.state.services[self.id]

    @property
    def tasks(self) -> list[Task]:
        return list(self.room.state.tasks_of(self.id).values())

    @property
    def present(self) -> list[Task]:
        return [task for task in self.tasks if task.job_iteration == self.service.iteration]

    # --- the user

    @rule(data=st.data())
    def update(self, data: st.DataObject) -> None:
        self.room.update(self.id, self.drawn_spec(data, self.service.spec.is_global))

    @rule()
    def force(self) -> None:
        spec = self.service.spec
        forced = msgspec.structs.replace(spec.task, force_update=spec.task.force_update + 1)
        self.room.update(self.id, msgspec.structs.replace(spec, task=forced))

    @precondition(lambda self: self.service.previous_spec)
    @rule()
    def roll_back(self) -> None:
        service = self.service
        self.room.commit(
            services.rollback(self.room.state, self.id, service.meta.version, self.room.now)
        )

    # --- the nodes

    @precondition(lambda self: len(self.room.state.nodes) < 5)
    @rule()
    def join(self) -> None:
        self.room.join(self.room.new_id("node"))

    @precondition(lambda self: self.room.state.nodes)
    @rule(data=st.data(), state=STATES, availability=AVAILABILITIES)
    def change_node(
        self, data: st.DataObject, state: NodeState, availability: Availability
    ) -> None:
        node = data.draw(st.sampled_from(list(self.room.state.nodes)))
        if NodeState.DOWN in (state, self.room.state.nodes[node].status.state):
            self.returned.add(node)
        self.room.set_node(node, state, availability)

    @precondition(lambda self: self.room.state.nodes)
    @rule(data=st.data())
    def remove_node(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(list(self.room.state.nodes)))
        self.room.remove(self.room.state.nodes[node])
        self.returned.add(node)

    @rule(steps=st.integers(1, 6))
    def agents_report(self, steps: int) -> None:
        for id, state in list(self.unreported.items()):
            task = self.room.state.tasks.get(id)
            node = self.room.state.nodes.get(task.node) if task and task.node else None
            if task is None or task.state.is_terminal:
                del self.unreported[id]
            elif node is not None and node.status.state == NodeState.READY:
                self.room.report(task, state)
                del self.unreported[id]
        self.room.run_agents(steps)

    @rule(data=st.data(), state=ENDS)
    def a_task_ends(self, data: st.DataObject, state: TaskState) -> None:
        """Also one that was told to stop a moment ago."""
        begun = [
            t
            for t in self.tasks
            if TaskState.ASSIGNED <= t.state <= TaskState.RUNNING
            and (state != TaskState.COMPLETE or t.state == TaskState.RUNNING)
        ]
        if begun:
            self.unreported[data.draw(st.sampled_from(begun)).id] = state
            self.agents_report(0)

    # --- the managers

    @rule(loop=st.sampled_from(LOOPS))
    def run_loop(self, loop: Loop) -> None:
        self.room.run(loop)

    @rule(loop=st.sampled_from(LOOPS))
    def another_leads(self, loop: Loop) -> None:
        changes = self.room.decide_anew(loop).changes
        if changes:
            self.room.commit(changes)

    @rule()
    def all_goes_well_for_a_while(self) -> None:
        for _ in range(3):
            for loop in LOOPS:
                self.room.run(loop)
            self.agents_report(6)

    @rule(loop=st.sampled_from(LOOPS))
    def decide_and_wait(self, loop: Loop) -> None:
        self.stale = self.room.decide(loop), self.room.state.revision

    @precondition(lambda self: self.stale)
    @rule()
    def commit_late(self) -> None:
        assert self.stale
        with suppress(OutOfSequence):
            self.room.commit(self.stale[0].changes, decided_on=self.stale[1])
        self.stale = None

    @rule(seconds=st.sampled_from([1, 6, 61, 24 * 3600]))
    def time_passes(self, seconds: int) -> None:
        self.room.now += seconds * SECOND

    # --- what holds always

    @invariant()
    def no_more_slots_run_than_may(self) -> None:
        live = [task for task in self.present if task.is_live]
        slots = [slot_of(task) for task in live]
        assert len(set(slots)) == len(slots)
        assert self.service.job_status is not None
        most = self.service.spec.job.max_concurrent if self.service.spec.job else None
        if most is None or not live:
            return
        is_early = self.room.now < self.service.job_status.last_execution + NEVER_STOPS
        stopping = [
            task
            for task in self.tasks
            if TaskState.ASSIGNED <= task.state <= TaskState.RUNNING
            and task.desired > TaskState.RUNNING
            and task.node not in self.returned
            and (is_early or task in self.present)
        ]
        assert len({*slots, *map(slot_of, stopping)}) <= most

    @invariant()
    def a_slot_that_has_completed_is_left_alone(self) -> None:
        if self.iteration != self.service.iteration:
            self.iteration, self.completed = self.service.iteration or 0, {}
        completed = {slot_of(t) for t in self.present if t.state == TaskState.COMPLETE}
        kept = {s for s in self.completed if isinstance(s, int) or s in self.room.state.nodes}
        assert kept <= completed
        for slot in completed:
            tasks = {task.id for task in self.present if slot_of(task) == slot}
            assert tasks <= self.completed.get(slot, tasks)
            self.completed.setdefault(slot, tasks)

    # --- what holds in the end

    def teardown(self) -> None:
        if not hasattr(self, "id"):
            return
        self.stale = None
        for node in list(self.room.state.nodes):
            self.room.set_node(node, NodeState.READY, "active")
        for _ in range(20):
            self.agents_report(0)
            self.room.settle(patience=600 * SECOND)
            running = [task for task in self.tasks if task.is_live and task.node is not None]
            if not running:
                break
            assert all(task.state == TaskState.RUNNING for task in running)
            self.no_more_slots_run_than_may()
            for task in running:
                self.room.report(task, TaskState.COMPLETE)
        self.has_ended()

    def has_ended(self) -> None:
        assert all(not self.room.decide_anew(loop).changes for loop in LOOPS)
        self.a_slot_that_has_completed_is_left_alone()
        spec, count = self.service.spec, progress(self.room.state, self.service)
        total = len(self.room.state.nodes) if spec.replicas is None else spec.replicas
        completed = {s for s in self.completed if s in self.room.state.nodes or spec.replicas}
        is_on_hold = spec.job is not None and spec.job.max_concurrent == 0
        if is_on_hold or (spec.replicas is not None and not self.room.state.nodes):
            assert count.running == 0
        elif self.policy.condition != "none" and not self.policy.max_attempts:
            assert len(completed) == count.completed == total
        else:
            given_up = {slot_of(task) for task in self.present} - completed
            assert len(completed) + len(given_up) == total
        assert not any(t.is_live for t in self.tasks if t.node is not None)


TestJobLife = JobLife.TestCase
TestJobLife.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
