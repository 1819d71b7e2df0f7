"""One request, from its JSON to the operations on a host's kernel: who decides what, in the order
in which it happens.

    api/schema/service.py → control/requests/services.py → store/ → control/orchestrator →
    control/allocator → control/scheduler → control/assignments/ → agent/ → engine/ →
    network/plan.py → network/diff.py → linux/

In a daemon each of these runs when the store tells it that something changed. Here they are called
one after the other, and after each it is shown what it added. test_packet.py goes on where this
ends.
"""

import asyncio
import itertools
import json
from ipaddress import IPv4Address, IPv4Interface

import msgspec

from tests.walk.conftest import CLIENT, arrived
from weft.agent.workloads import residents, workload
from weft.api.schema.decoding import decode
from weft.api.schema.service import spec_from
from weft.api.schema.service_wire import ServiceWire
from weft.control.allocator import allocator
from weft.control.assignments.assignment import assignment_for
from weft.control.assignments.views import network_views
from weft.control.orchestrator import orchestrator
from weft.control.requests import services
from weft.control.scheduler import scheduler
from weft.engine.sandboxes import new_sandbox
from weft.linux.fake import FakeKernel
from weft.linux.fake_underlay import FakeUnderlay
from weft.model.assignment import Assignment
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import ClusterId, ContainerId, NetworkId, NodeId, ServiceId, TaskId
from weft.model.meta import SECOND
from weft.model.network import Network, NetworkSpec
from weft.model.node import Node, NodeDescription, NodeSpec, NodeState, NodeStatus
from weft.model.sandbox import NodeFacts, Sandbox
from weft.model.service import Resources
from weft.model.state import Change, ClusterState, Put
from weft.model.task import Task, TaskState, TaskStatus
from weft.model.trace import Packet
from weft.model.workload import Resident
from weft.network.diff import diff
from weft.network.kernel_state import KernelState
from weft.network.operations import ReplaceTable, SetSysctl
from weft.network.plan import plan
from weft.network.render.table import text
from weft.store.memory import MemoryStore

NOW = 1_700_000_000 * SECOND

CREATE = {
    "Name": "web",
    "TaskTemplate": {"ContainerSpec": {"Image": "nginx"}, "Networks": [{"Target": "mynet"}]},
    "Mode": {"Replicated": {"Replicas": 2}},
    "EndpointSpec": {"Ports": [{"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080}]},
}
"""What `docker service create --name web --network mynet --replicas 2 -p 8080:80 nginx` sends."""


class Manager:
    """A store with a swarm of two nodes and a network in it, and the loops, called by hand."""

    def __init__(self) -> None:
        self.store = MemoryStore(lambda: NOW)
        self.numbers = itertools.count(1)
        description = NodeDescription(hostname="host", resources=Resources(4_000_000_000, 8 << 30))
        ready = NodeStatus(NodeState.READY)
        self.commit(
            Put(Cluster(id=ClusterId("c"), root_ca=RootCa("", ""), join_tokens=JoinTokens("", ""))),
            Put(
                Network(
                    id=NetworkId("ingress" + "0" * 18),
                    spec=NetworkSpec(name="ingress", ingress=True),
                )
            ),
            Put(Network(id=NetworkId("mynet" + "0" * 20), spec=NetworkSpec(name="mynet"))),
            *(
                Put(
                    Node(
                        id=NodeId(f"node{i}"),
                        spec=NodeSpec(),
                        description=description,
                        status=ready,
                        data_path_address=IPv4Address(f"10.59.72.1{i}"),
                    )
                )
                for i in (1, 2)
            ),
        )
        self.allocate()

    @property
    def state(self) -> ClusterState:
        return self.store.state

    def commit(self, *changes: Change) -> list[str]:
        asyncio.run(self.store.commit(changes))
        return [str(change) for change in changes]

    def orchestrate(self) -> list[str]:
        return self.commit(
            *orchestrator.reconcile(
                self.state, NOW, lambda: TaskId(f"task{next(self.numbers)}")
            ).changes
        )

    def allocate(self) -> list[str]:
        return self.commit(*allocator.reconcile(self.state, NOW).changes)

    def schedule(self) -> list[str]:
        return self.commit(*scheduler.reconcile(self.state, NOW).changes)

    def hear_that_all_run(self) -> None:
        """What the agents report in the end."""
        running = TaskStatus(TaskState.RUNNING, NOW, "started")
        self.commit(
            *(
                Put(msgspec.structs.replace(task, status=running))
                for task in self.state.tasks.values()
            )
        )

    def assignment(self, node: str) -> Assignment:
        return assignment_for(self.state, NodeId(node), network_views(self.state))

    def tasks(self) -> list[Task]:
        return list(self.state.tasks.values())


def agent(assignment: Assignment, facts: NodeFacts) -> list[Resident]:
    """What a node decides itself: a sandbox for the workload of each task that it was given."""
    made: list[Sandbox] = []
    for number, task in enumerate(assignment.tasks.values()):
        id = f"{facts.node}{number}".ljust(64, "0")
        made.append(new_sandbox(id, workload(task), ContainerId(id), facts, made))
    return residents(assignment.tasks, made)


def test_a_service_from_json_to_the_kernel() -> None:
    manager = Manager()
    [mynet] = [n for n in manager.state.networks.values() if n.name == "mynet"]
    assert str(mynet.segments[0].subnet) == "10.0.1.0/24"

    # api/schema/service.py: Docker's JSON becomes our model, in one place, or is refused with the
    # field's name
    wire = decode(json.dumps(CREATE).encode(), ServiceWire)
    spec = spec_from(wire, {"mynet": mynet.id}.__getitem__)
    assert (spec.name, spec.replicas, spec.task.container.image) == ("web", 2, "nginx")
    assert spec.task.networks[0].target == mynet.id

    # control/requests/services.py checks what crosses objects, and store/ keeps it: that is all the
    # request waits for
    manager.commit(*services.creation(manager.state, ServiceId("web"), spec, 1))
    assert manager.tasks() == []

    # control/allocator: a virtual address on each network, and the ports
    manager.allocate()
    service = manager.state.services[ServiceId("web")]
    assert [(p.published, p.target, p.mode) for p in service.endpoint.ports] == [
        (8080, 80, "ingress")
    ]
    assert {str(a.address) for a in service.endpoint.addresses} == {"10.0.0.4/24", "10.0.1.2/24"}

    # control/orchestrator: as many tasks as replicas; they have neither addresses nor a node
    manager.orchestrate()
    assert [(t.slot, t.state, t.node, t.attachments) for t in manager.tasks()] == [
        (1, TaskState.NEW, None, ()),
        (2, TaskState.NEW, None, ()),
    ]

    # control/allocator: an address on the ingress network and on mynet for each, and they may be
    # scheduled
    manager.allocate()
    assert [t.state for t in manager.tasks()] == [TaskState.PENDING] * 2
    assert [[str(a.address) for a in t.attachments] for t in manager.tasks()] == [
        ["10.0.0.5/24", "10.0.1.3/24"],
        ["10.0.0.6/24", "10.0.1.4/24"],
    ]

    # control/scheduler: a node for each, spread
    manager.schedule()
    assert sorted((t.node, t.state) for t in manager.tasks()) == [
        ("node1", TaskState.ASSIGNED),
        ("node2", TaskState.ASSIGNED),
    ]

    # the nodes' load balancers get their addresses on mynet once a task of theirs is there
    manager.allocate()
    assert {str(a.address) for a in manager.state.nodes[NodeId("node1")].attachments} == {
        "10.0.0.2/24",
        "10.0.1.5/24",
    }

    # nothing is left to decide
    assert (manager.orchestrate(), manager.allocate(), manager.schedule()) == ([], [], [])

    # agent/ and engine/: make a sandbox and a container of each task and reports; only then does a
    # task serve
    manager.hear_that_all_run()

    # control/assignments/: all that a node may know, as one value
    assignment = manager.assignment("node1")
    assert [t.service_name for t in assignment.tasks.values()] == ["web"]
    assert sorted(v.definition.name for v in assignment.networks.values()) == ["ingress", "mynet"]
    view = assignment.networks[mynet.id]
    assert [str(e.vtep) for e in view.backends(ServiceId("web"))] == ["10.59.72.11", "10.59.72.12"]

    # network/plan.py and network/diff.py: what the kernel is to look like, and how it gets there
    facts = NodeFacts(node=NodeId("node1"), data_path_address=IPv4Address("10.59.72.11"))
    desired = plan(assignment, facts, agent(assignment, facts))
    operations = diff(KernelState({}), desired)
    told = [
        str(o).split(" type vxlan")[0]
        for o in operations
        if not isinstance(o, SetSysctl | ReplaceTable)
    ]
    milestones = [
        "ip netns add 1-mynet00000",
        "ip netns add node10000000",
        "ip link add vxlan0 mtu 1450 netns 1-mynet00000",
        (
            "ip -n 1-mynet00000 link add veth1 mtu 1450 type veth peer name eth1 netns node10000000"
            " mtu 1450 address 02:42:0a:00:01:03"
        ),
        "ip -n node10000000 address add 10.0.1.3/24 dev eth1",
        "ip -n node10000000 link set eth1 up",
        (
            "ip -n 1-mynet00000 neighbour replace 10.0.1.4 lladdr 02:42:0a:00:01:04 dev vxlan0 nud"
            " permanent"
        ),
        "bridge -n 1-mynet00000 fdb replace 02:42:0a:00:01:03 dev veth1 master static",
        (
            "bridge -n 1-mynet00000 fdb replace 02:42:0a:00:01:04 dev vxlan0 dst 10.59.72.12 self"
            " permanent"
        ),
        "ip route replace 10.0.0.0/24 dev ing0 src 10.59.72.11 table 5917",
        "ip rule add priority 900 fwmark 0x20000/0xffff0000 lookup 5917",
    ]
    assert [line for line in told if line in milestones] == milestones
    [table] = [
        o
        for o in operations
        if isinstance(o, ReplaceTable) and (o.namespace, o.table.name) == ("host", "weft")
    ]
    rules = text(table.table)
    assert (
        'dnat ip to tcp dport . (numgen inc mod 2 offset 0 & 1) map @mesh-slots-tcp comment "web"'
        in rules
    )
    assert "elements = { 8080 . 0 : 10.0.0.5 . 80, 8080 . 1 : 10.0.0.6 . 80 }" in rules

    # linux/: and then a packet finds its way, to a task on either node
    assert seen_by_a_client(manager) == {"node1", "node2"}


def seen_by_a_client(manager: Manager) -> set[str]:
    """Hosts of the tasks that answer a client who asks node1 again and again."""
    underlay = FakeUnderlay()
    for i in (1, 2):
        assignment = manager.assignment(f"node{i}")
        facts = NodeFacts(node=NodeId(f"node{i}"), data_path_address=IPv4Address(f"10.59.72.1{i}"))
        kernel = FakeKernel(IPv4Interface(f"10.59.72.1{i}/24"))
        asyncio.run(
            kernel.apply(diff(KernelState({}), plan(assignment, facts, agent(assignment, facts))))
        )
        underlay.join(f"node{i}", kernel)
    found = set()
    for port in (40000, 40001):
        request = underlay.trace(Packet("tcp", CLIENT, port, IPv4Address("10.59.72.11"), 8080))
        assert (request.end, arrived(request).source) == ("delivered", CLIENT)
        assert underlay.answer(request).end == "left"
        found.add(request.place.host)
    return found
