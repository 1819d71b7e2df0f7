"""Anything may happen to a swarm, in any order, and the loops may run at any time and lose any
race: nothing is ever held twice, the indexes stay true, and left alone the swarm becomes what its
specifications say.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.control_room import LOOPS, ControlRoom, Loop
from weft.control.assignments.affected import concerned
from weft.control.assignments.assignment import Opened, assignment_for
from weft.control.assignments.differences import Memo, difference
from weft.control.assignments.views import Views, network_views
from weft.control.orchestrator.jobs import started_again
from weft.control.orchestrator.updater import rolled_back, with_spec
from weft.errors import OutOfSequence
from weft.model.assignment import Assignment
from weft.model.ids import ConfigId, NetworkId, NodeId, SecretId, ServiceId
from weft.model.labels import REBALANCE
from weft.model.meta import SECOND
from weft.model.network import NetworkSpec, Pool
from weft.model.node import Availability, NodeState
from weft.model.secret import (
    Config,
    DataKind,
    DataReference,
    DataSpec,
    Payload,
    Sealed,
    Secret,
)
from weft.model.service import (
    ContainerSpec,
    EndpointSpec,
    FixedAddresses,
    Job,
    NetworkAttachmentSpec,
    PublishedPort,
    RestartPolicy,
    ServiceSpec,
    TaskSpec,
    UpdateConfig,
)
from weft.model.state import ClusterState, Decision
from weft.model.task import TaskState

HOSTS = st.sampled_from([None, None, IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")])
ENDED = (TaskState.COMPLETE, TaskState.FAILED, TaskState.SHUTDOWN)


KINDS_OF_DATA: tuple[DataKind, ...] = ("secret", "config")


def opened(found: Secret | Config) -> Payload:
    return Payload(id=found.id, data=found.id.encode())


OPENED = Opened(opened, lambda _: None)


def needed(state: ClusterState, node: NodeId) -> tuple[dict[str, Payload], dict[str, Payload]]:
    """What the node's own tasks need, and nothing else: looked up the slow way."""
    tasks = [
        t
        for t in state.tasks.values()
        if t.node == node and TaskState.ASSIGNED <= t.state <= TaskState.RUNNING
    ]

    def of(kind: DataKind, ids: Iterable[str]) -> dict[str, Payload]:
        there = state.tables[kind]
        return {
            id: Payload(id=id, data=id.encode()) if id in there else Payload(id=id, is_gone=True)
            for id in ids
        }

    return (
        of("secret", {each.id for t in tasks for each in t.spec.container.secrets}),
        of("config", {each.id for t in tasks for each in t.spec.container.configs}),
    )


class Swarm(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.room = ControlRoom(nodes=2)
        self.stale: tuple[Decision, int] | None = None
        self.told: dict[NodeId, Assignment] = {}
        self.views: Views = {}
        self.heard = 0
        for number in range(3):
            self.create_data("secret", number)
            self.create_data("config", number)

    # --- the user

    @rule(size=st.sampled_from([0, 29, 29, 28]), second=st.booleans(), number=st.integers(0, 3))
    def create_network(self, size: int, second: bool, number: int) -> None:
        subnets = [IPv4Network(f"10.{number}.0.0/{size}")] if size else []
        if second and subnets:
            subnets.append(IPv4Network(f"10.{number}.1.0/{size}"))
        if len(self.room.state.networks) > 3:
            return
        name = f"net{len(self.room.state.networks)}-{self.room.now}-{self.room.state.revision}"
        self.room.network(NetworkSpec(name=name, pools=tuple(Pool(subnet) for subnet in subnets)))

    @precondition(lambda self: len(self.room.state.networks) > 1)
    @rule(data=st.data())
    def remove_network(self, data: st.DataObject) -> None:
        network = data.draw(
            st.sampled_from([n for n in self.room.state.networks.values() if not n.spec.ingress])
        )
        used = {a.target for s in self.room.state.services.values() for a in s.spec.task.networks}
        used |= {
            a.network
            for t in self.room.state.tasks.values()
            if not t.state.is_terminal
            for a in t.attachments
        }
        used |= {
            a.target
            for t in self.room.state.tasks.values()
            if not t.state.is_terminal
            for a in t.spec.networks
        }
        if network.id not in used:
            self.room.remove(network)

    @rule(kind=st.sampled_from(KINDS_OF_DATA), number=st.integers(0, 2))
    def create_data(self, kind: DataKind, number: int) -> None:
        id, spec = f"{kind}{number}", DataSpec(name=f"{kind}{number}")
        if id not in self.room.state.tables[kind]:
            self.room.put(
                Secret(id=SecretId(id), spec=spec, sealed=Sealed("", b"", id.encode()))
                if kind == "secret"
                else Config(id=ConfigId(id), spec=spec, data=id.encode())
            )

    @rule(kind=st.sampled_from(KINDS_OF_DATA), number=st.integers(0, 2))
    def remove_data(self, kind: DataKind, number: int) -> None:
        """Also while tasks need it: their service may have been updated since."""
        found = self.room.state.tables[kind].get(f"{kind}{number}")
        if found is not None and not self.room.state.services_using(kind, found.id):
            self.room.remove(found)

    def draw_data(self, data: st.DataObject, kind: DataKind) -> tuple[DataReference, ...]:
        chosen = data.draw(
            st.lists(st.sampled_from(sorted(self.room.state.tables[kind])), max_size=2, unique=True)
            if self.room.state.tables[kind]
            else st.just([])
        )
        return tuple(DataReference(id=id, name=id, target=id) for id in chosen)

    def draw_spec(
        self, data: st.DataObject, name: str, is_global: bool, is_job: bool
    ) -> ServiceSpec:
        networks = [id for id, n in self.room.state.networks.items() if not n.spec.ingress]
        chosen: list[NetworkId] = (
            data.draw(st.lists(st.sampled_from(networks), min_size=1, max_size=2, unique=True))
            if networks
            else []
        )
        ports = data.draw(
            st.lists(st.sampled_from([0, 8080, 8081, 30000]), max_size=2, unique=True)
        )
        modes: st.SearchStrategy[Literal["ingress", "host"]] = st.sampled_from(["ingress", "host"])
        published = tuple(
            PublishedPort(80 + i, port, mode=data.draw(modes), host_address=data.draw(HOSTS))
            for i, port in enumerate(ports)
        )
        orders: list[Literal["stop-first", "start-first"]] = ["stop-first", "start-first"]
        addresses = self.draw_addresses(data, name, chosen, is_global or is_job)
        if any(fixed.tasks for fixed in addresses):
            orders = ["stop-first"]
        moves = "false" if is_global or is_job else data.draw(st.sampled_from(["true", "false"]))
        has_mesh = any(port.mode == "ingress" for port in published)
        return ServiceSpec(
            name=name,
            labels={REBALANCE: moves},
            replicas=None if is_global else data.draw(st.integers(0, 4)),
            job=Job(None if is_global else data.draw(st.integers(0, 3))) if is_job else None,
            task=TaskSpec(
                container=ContainerSpec(
                    image=data.draw(st.sampled_from(["one", "two"])),
                    secrets=self.draw_data(data, "secret"),
                    configs=self.draw_data(data, "config"),
                ),
                networks=tuple(NetworkAttachmentSpec(id) for id in chosen),
                restart=RestartPolicy(
                    data.draw(st.sampled_from(["any", "any", "on-failure", "none"]))
                ),
            ),
            update=UpdateConfig(
                parallelism=data.draw(st.integers(0, 2)),
                order=data.draw(st.sampled_from(orders)),
                failure_action=data.draw(st.sampled_from(["pause", "continue", "rollback"])),
            ),
            endpoint=EndpointSpec(
                "vip" if has_mesh or data.draw(st.booleans()) else "dnsrr", published
            ),
            addresses=addresses,
        )

    def draw_addresses(
        self, data: st.DataObject, name: str, networks: list[NetworkId], only_virtual: bool
    ) -> tuple[FixedAddresses, ...]:
        """As a request may choose them (`fixed_addresses.py`): usable, of no other service, and of
        no task or node that keeps them."""
        state, found = self.room.state, []
        for id in networks:
            segments = state.networks[id].segments
            free = [a for s in segments for a in s.subnet.hosts() if not self.is_taken(name, id, a)]
            count = data.draw(st.sampled_from([0, 0, 1, 3]))
            own = data.draw(st.permutations(free[:8]))[:count]
            if own:
                virtual = own[0] if data.draw(st.booleans()) else None
                tasks = () if only_virtual else tuple(own[1:])
                found.append(FixedAddresses(network=id, virtual=virtual, tasks=tasks))
        return tuple(found)

    def is_taken(self, name: str, id: NetworkId, address: IPv4Address) -> bool:
        """Whether a service of that name cannot have the address."""
        state = self.room.state
        return (
            any(address == segment.gateway for segment in state.networks[id].segments)
            or self.is_held(id, address)
            or any(
                fixed.network == id and address in (fixed.virtual, *fixed.tasks)
                for service in state.services.values()
                if service.name != name
                for fixed in service.kept_addresses
            )
        )

    def is_held(
        self, id: NetworkId, address: IPv4Address, service: ServiceId | None = None
    ) -> bool:
        """Whether somebody but the service has the address and is not about to end."""
        state = self.room.state
        tasks = (t for t in state.tasks.values() if t.is_live and t.service != service)
        others = (s for s in state.services.values() if s.id != service)
        found = (
            *((a.network, a.address.ip) for task in tasks for a in task.attachments),
            *((a.network, a.address.ip) for other in others for a in other.endpoint.addresses),
            *((a.network, a.address.ip) for n in state.nodes.values() for a in n.attachments),
        )
        return (id, address) in found

    @rule(data=st.data(), is_global=st.booleans(), is_job=st.sampled_from([False, False, True]))
    def create_service(self, data: st.DataObject, is_global: bool, is_job: bool) -> None:
        if len(self.room.state.services) < 4:
            name = f"service{self.room.state.revision}"
            self.room.service(self.draw_spec(data, name, is_global, is_job))

    @precondition(lambda self: self.room.state.services)
    @rule(data=st.data())
    def update_service(self, data: st.DataObject) -> None:
        service = self.room.state.services[self.draw_service(data)]
        was = service.spec
        spec = self.draw_spec(data, service.name, was.is_global, was.job is not None)
        self.room.put(started_again(with_spec(service, spec), self.room.now))

    @precondition(lambda self: self.room.state.services)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        service = self.room.state.services[self.draw_service(data)]
        known = self.room.state.networks
        if service.previous_spec and all(
            a.target in known for a in service.previous_spec.task.networks
        ):
            self.room.put(started_again(rolled_back(service, self.room.now), self.room.now))

    @invariant()
    def nobody_else_has_an_address_that_a_user_chose(self) -> None:
        """Not so after a rollback, which takes back addresses that others may have got meanwhile:
        the service waits for them."""
        state = self.room.state
        for service in state.services.values():
            if service.update_status is not None and "rollback" in service.update_status.state:
                continue
            for fixed in service.spec.addresses:
                for address in (fixed.virtual, *fixed.tasks):
                    assert address is None or not self.is_held(fixed.network, address, service.id)

    @precondition(lambda self: self.room.state.services)
    @rule(data=st.data())
    def remove_service(self, data: st.DataObject) -> None:
        self.room.remove(self.room.state.services[self.draw_service(data)])

    def draw_service(self, data: st.DataObject) -> ServiceId:
        return data.draw(st.sampled_from(list(self.room.state.services)))

    # --- the nodes

    @rule(number=st.integers(1, 4))
    def join(self, number: int) -> None:
        if f"node{number}" not in self.room.state.nodes:
            self.room.join(f"node{number}")

    @precondition(lambda self: self.room.state.nodes)
    @rule(
        data=st.data(),
        state=st.sampled_from(NodeState),
        availability=st.sampled_from(["active", "pause", "drain"]),
    )
    def change_node(
        self, data: st.DataObject, state: NodeState, availability: Availability
    ) -> None:
        self.room.set_node(
            data.draw(st.sampled_from(list(self.room.state.nodes))), state, availability
        )

    @precondition(lambda self: self.room.state.nodes)
    @rule(data=st.data())
    def remove_node(self, data: st.DataObject) -> None:
        self.room.remove(
            self.room.state.nodes[data.draw(st.sampled_from(list(self.room.state.nodes)))]
        )

    @rule(steps=st.integers(1, 6))
    def agents_report(self, steps: int) -> None:
        self.room.run_agents(steps)

    @rule(data=st.data(), state=st.sampled_from(ENDED))
    def a_task_ends(self, data: st.DataObject, state: TaskState) -> None:
        live = [
            t
            for t in self.room.state.tasks.values()
            if TaskState.ASSIGNED <= t.state <= TaskState.RUNNING
        ]
        if live:
            self.room.report(data.draw(st.sampled_from(live)), state)

    # --- the loops

    @rule(loop=st.sampled_from(LOOPS))
    def run_loop(self, loop: Loop) -> None:
        self.room.run(loop)

    @rule()
    def all_goes_well_for_a_while(self) -> None:
        for _ in range(3):
            for loop in LOOPS:
                self.room.run(loop)
            self.assignments_follow()
            self.room.run_agents(6)
            self.assignments_follow()

    @rule(loop=st.sampled_from(LOOPS))
    def decide_and_wait(self, loop: Loop) -> None:
        self.stale = self.room.decide(loop), self.room.state.revision

    @precondition(lambda self: self.stale)
    @rule()
    def commit_late(self) -> None:
        """A deposed leader, or one that was slow."""
        assert self.stale
        with suppress(OutOfSequence):
            self.room.commit(self.stale[0].changes, decided_on=self.stale[1])
        self.stale = None

    @rule(seconds=st.sampled_from([1, 6, 61, 24 * 3600]))
    def time_passes(self, seconds: int) -> None:
        self.room.now += seconds * SECOND

    # --- what holds always

    @invariant()
    def nothing_is_held_twice(self) -> None:
        state = self.room.state
        held = Counter(_addresses(state))
        assert not [address for address, count in held.items() if count > 1]
        gateways = {(n.id, s.gateway) for n in state.networks.values() for s in n.segments}
        assert gateways.isdisjoint(held)
        segments = [s for n in state.networks.values() for s in n.segments]
        assert len({s.vni for s in segments}) == len(segments)
        assert not any(
            a.subnet.overlaps(b.subnet) for i, a in enumerate(segments) for b in segments[:i]
        )
        ports = [
            p for s in state.services.values() for p in s.endpoint.ports if p.mode == "ingress"
        ]
        assert not any(
            a.host_port.meets(b.host_port) for i, a in enumerate(ports) for b in ports[:i]
        )
        assert all(port.published for port in ports)

    @invariant()
    def indexes_are_those_of_a_fresh_state(self) -> None:
        state = self.room.state
        fresh = ClusterState(state.objects())
        for network in state.networks:
            assert dict(state.usage.addresses(network)) == dict(fresh.usage.addresses(network))
            assert dict(state.usage.fixed(network)) == dict(fresh.usage.fixed(network))
        for node in {*state.nodes, *state.nodes_with_tasks()}:
            assert dict(state.usage.networks(node)) == dict(fresh.usage.networks(node))
            assert state.usage.load(node) == fresh.usage.load(node)

    @rule()
    def assignments_follow(self) -> None:
        """Whoever is not concerned by what happened would be told nothing new."""
        state, events = self.room.state, self.room.events[self.heard :]
        self.heard = len(self.room.events)
        previous, self.views = self.views, network_views(state, self.views, events)
        who = concerned(state, events, previous, self.views)
        memo = Memo()
        for node in self.told.keys() - state.nodes.keys():
            assert node in who.tasks
            del self.told[node]
        for node in state.nodes:
            known = self.told.get(node)
            same = known if node not in who.tasks else None
            new = assignment_for(state, node, self.views, same, OPENED)
            assert new == assignment_for(state, node, network_views(state), None, OPENED)
            assert (dict(new.secrets), dict(new.configs)) == needed(state, node)
            change = difference(known, new, memo)
            assert (
                known is None
                or who.everybody
                or node in who.tasks | who.networks
                or change.is_empty
            )
            assert (known or Assignment(node=node)).after(change) == new
            self.told[node] = new

    # --- what holds in the end

    def teardown(self) -> None:
        self.stale = None
        for node in list(self.room.state.nodes.values()):
            if (node.status.state, node.spec.availability) != (NodeState.READY, "active"):
                self.room.set_node(node.id, NodeState.READY, "active")
        for service in list(self.room.state.services.values()):
            status = service.update_status
            if status is not None and "paused" in status.state:
                self.room.put(msgspec.structs.replace(service, update_status=None))
        self.room.settle(patience=600 * SECOND)
        self.nothing_is_held_twice()
        for loop in LOOPS:
            assert self.room.decide_anew(loop).changes == ()
        assert all(task.desired != TaskState.REMOVE for task in self.room.state.tasks.values())
        assert not list(self.room.state.orphans())
        for service in self.room.state.services.values():
            self._converged(service.id)

    def _converged(self, id: ServiceId) -> None:
        state = self.room.state
        service = state.services[id]
        waiting = [
            t for t in state.tasks_of(id).values() if t.is_live and t.state < TaskState.ASSIGNED
        ]
        assert all(task.status.err for task in waiting)
        is_job = service.spec.job is not None  # see test_control_jobs_stateful.py
        if is_job or service.error or service.spec.task.restart.condition != "any":
            return
        running = [
            t for t in self.room.running(id) if t.spec.container == service.spec.task.container
        ]
        stuck = service.update_status is not None and "paused" in service.update_status.state
        wanted = len(state.nodes) if service.spec.replicas is None else service.spec.replicas
        wanted = min(wanted, service.spec.most_slots or wanted)
        assert stuck or waiting or len(running) == wanted


def _addresses(state: ClusterState) -> Iterable[tuple[NetworkId, object]]:
    for task in state.tasks.values():
        if not task.state.is_terminal:
            yield from ((a.network, a.address.ip) for a in task.attachments)
    for service in state.services.values():
        yield from ((a.network, a.address.ip) for a in service.endpoint.addresses)
    for node in state.nodes.values():
        yield from ((a.network, a.address.ip) for a in node.attachments)


TestSwarm = Swarm.TestCase
TestSwarm.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
