"""Whether a swarm is as its users asked for, once nothing goes wrong any more: what is missing or
too much, in words."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from tests.simulation.host import SimHost
from tests.simulation.invariants import host_ports
from weft.control.assignments.assignment import assignment_for
from weft.control.assignments.views import network_views
from weft.model.ids import NodeId
from weft.model.node import Node, NodeState
from weft.model.service import Service, UpdateState
from weft.model.state import ClusterState
from weft.model.task import Task, TaskState
from weft.model.workload import TASK_LABEL

UNDER_WAY = (UpdateState.UPDATING, UpdateState.ROLLBACK_STARTED)
PAUSED = (UpdateState.PAUSED, UpdateState.ROLLBACK_PAUSED)


def differences(state: ClusterState, all_hosts: Sequence[SimHost]) -> list[str]:
    """`state`: as committed. Nothing is asked of nodes that have left: what they ran may be running
    still, for all that the managers know."""
    hosts = {host.node: host for host in all_hosts if host.node is not None}
    return [
        *_managers(state, [host for host in all_hosts if host.is_manager]),
        *_nodes(state, hosts),
        *_root(state, hosts),
        *(line for service in state.services.values() for line in _service(state, service)),
        *(
            f"{task.name} of a service that is gone"
            for task in state.orphans()
            if task.node in hosts
        ),
        *(line for host in all_hosts for line in _host(state, host)),
        *(f"network {n.name} has no subnet" for n in state.networks.values() if not n.segments),
    ]


def _managers(state: ClusterState, hosts: Sequence[SimHost]) -> Iterator[str]:
    """Each has what was committed, and one of them leads."""
    wanted = {obj.id: obj for obj in state.objects()}
    leaders = set()
    for host in hosts:
        if host.manager is None:
            yield f"{host.name} does not manage"
            continue
        if {obj.id: obj for obj in host.manager.swarm.state.objects()} != wanted:
            yield f"{host.name} has another state"
        leaders.add(host.manager.swarm.leadership_status.leader)
    if len(leaders) != 1 or None in leaders:
        yield f"leaders are {leaders}"


def _nodes(state: ClusterState, hosts: Mapping[NodeId, SimHost]) -> Iterator[str]:
    for node in state.nodes.values():
        wanted = NodeState.READY if node.id in hosts else NodeState.DOWN
        if node.id in hosts and node.spec.role != (
            "manager" if hosts[node.id].is_manager else "worker"
        ):
            yield f"node {node.hostname} is to be a {node.spec.role}"
        if node.status.state is not wanted:
            yield f"node {node.hostname} is {node.status.state}, not {wanted}"
    for host in hosts.values():
        if host.agent is None or not host.agent.uplink.connected:
            yield f"{host.name} has no session"


def _root(state: ClusterState, hosts: Mapping[NodeId, SimHost]) -> Iterator[str]:
    """All trust the one that there is. A node that has left holds up the way to a new one."""
    assert state.cluster is not None
    if state.cluster.rotation is not None:
        if state.nodes.keys() == hosts.keys():
            yield "the root is on its way to another one"
        return
    for host in hosts.values():
        if host.credentials is None or host.credentials.root != state.cluster.root_ca.certificate:
            yield f"{host.name} trusts another root"


def _service(state: ClusterState, service: Service) -> Iterator[str]:
    tasks = [
        task for task in state.tasks_of(service.id).values() if task.desired <= TaskState.RUNNING
    ]
    open_nodes = [node for node in state.nodes.values() if _takes(node)]
    for task in tasks:
        node = state.nodes.get(task.node) if task.node is not None else None
        if node is None and any(_has_room(state, place, task) for place in open_nodes):
            yield f"{task.name} has no node"
        elif node is not None and node.spec.availability == "drain":
            yield f"{task.name} is on {node.hostname}, which is drained"
        elif (
            node is not None
            and node.spec.availability == "pause"
            and task.state < TaskState.ASSIGNED
        ):
            pass  # of a global service: it waits for the node to take tasks again
        elif (
            node is not None
            and task.state < TaskState.ASSIGNED
            and not _has_room(state, node, task)
        ):
            pass  # the same: for the node's port
        elif node is not None and task.state != TaskState.RUNNING:
            yield f"{task.name} is {task.state.name} on {node.hostname}: {task.status.err}"
    # Otherwise it waits for a place to go on.
    if open_nodes and all(task.state == TaskState.RUNNING for task in tasks):
        yield from _update(service, [task for task in tasks if not _stays(state, service, task)])
    yield from _count(service, tasks, open_nodes, state)


def _has_room(state: ClusterState, node: Node, task: Task) -> bool:
    """For its host-mode ports."""
    others = state.tasks_on(NodeId(node.id)).values()
    held = {port for other in others if not other.state.is_terminal for port in host_ports(other)}
    return held.isdisjoint(host_ports(task))


def _stays(state: ClusterState, service: Service, task: Task) -> bool:
    """A global service's task on a node that is paused is left as it is until the node takes tasks
    again."""
    node = state.nodes.get(task.node) if task.node is not None else None
    return service.spec.is_global and node is not None and node.spec.availability == "pause"


def _update(service: Service, tasks: Sequence[Task]) -> Iterator[str]:
    state = service.update_status.state if service.update_status is not None else None
    if state in UNDER_WAY:
        yield f"{service.name} is {state}"
    elif state not in PAUSED and any(
        task.spec.container.env != service.spec.task.container.env for task in tasks
    ):
        yield f"{service.name} has tasks of an older spec"


def _takes(node: Node) -> bool:
    return node.status.state is NodeState.READY and node.spec.availability == "active"


def _count(
    service: Service, tasks: list[Task], open_nodes: list[Node], state: ClusterState
) -> Iterator[str]:
    if service.spec.is_global:
        places = Counter(task.node for task in tasks if task.node is not None)
        allowed = {node.id for node in state.nodes.values() if node.spec.availability != "drain"}
        if (
            set(places) - allowed
            or {node.id for node in open_nodes} - set(places)
            or max(places.values(), default=1) > 1
        ):
            yield f"{service.name} runs {dict(places)}"
        return
    slots = sorted(task.slot for task in tasks)
    if len(slots) != service.spec.replicas or len(set(slots)) != len(slots):
        yield f"{service.name} has slots {slots} of {service.spec.replicas}"


def _host(state: ClusterState, host: SimHost) -> Iterator[str]:
    """Runs what it is to run, each once, and knows what the managers know."""
    running = Counter(container.config.labels[TASK_LABEL] for container in host.runtime.running())
    if host.identity is None or host.node not in state.nodes:
        if running:
            yield f"{host.name} is not in the swarm and runs {sorted(running)}"
        return
    wanted = Counter(
        task.id
        for task in state.tasks_on(host.identity.node).values()
        if task.state == TaskState.RUNNING and task.desired == TaskState.RUNNING
    )
    if running != wanted:
        yield f"{host.name} runs {sorted(running.elements())}, not {sorted(wanted)}"
    if host.agent is None:
        return
    right = assignment_for(state, host.identity.node, network_views(state))
    if msgspec.structs.replace(host.agent.assignment, revision=0) != msgspec.structs.replace(
        right, revision=0
    ):
        yield f"{host.name} has not the assignment of revision {right.revision}"
    if host.agent.networking.loop.failures:
        yield (
            f"{host.name} cannot set up its network: {host.agent.networking.loop.failures[0].cause}"
        )
