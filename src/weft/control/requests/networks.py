"""Requests about networks of the swarm: creation (the allocator then serves the network), and
removal once nothing needs it."""

from collections.abc import Sequence
from ipaddress import IPv4Network

from weft.control.allocator import routes
from weft.control.allocator.subnets import overlapping
from weft.control.requests.validation import validate_network
from weft.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound
from weft.model.ids import NetworkId
from weft.model.network import Network, NetworkSpec
from weft.model.node import NodeState
from weft.model.service import Service
from weft.model.state import Change, ClusterState, Put, Remove
from weft.model.task import Task


def warnings(state: ClusterState, network: Network, own_routes: Sequence[IPv4Network]) -> list[str]:
    """See `api.backend.Swarm.network_warnings`. `own_routes`: routes of this host."""
    return list(routes.hidden(state, network.segments, own_routes))


def creation(state: ClusterState, id: NetworkId, spec: NetworkSpec) -> list[Change]:
    _validate(spec)
    if state.named("network", spec.name) is not None:
        raise Conflict(f"network with name {spec.name} already exists")
    if spec.ingress and state.ingress is not None:
        raise Conflict(f"ingress network ({state.ingress.id}) is already present")
    cause = overlapping(state, [pool.subnet for pool in spec.pools], spec.name)
    if cause is not None:
        raise Conflict(cause)
    return [Put(Network(id=id, spec=spec))]


def _validate(spec: NetworkSpec) -> None:
    validate_network(spec)
    if spec.driver != "overlay":
        raise InvalidArgument(
            f"cannot create network {spec.name}: driver {spec.driver} has no swarm scope"
        )


def removal(state: ClusterState, id: NetworkId) -> list[Change]:
    """Tasks of a removed service do not prevent the removal: they are about to be told to stop, and
    `docker stack rm` removes services and networks together."""
    network = state.networks.get(id)
    if network is None:
        raise NotFound(f"network {id} not found")
    for service in state.services.values():
        if network.spec.ingress and needs_ingress(service):
            raise FailedPrecondition(
                f"ingress network cannot be removed because service {service.id} depends on it"
            )
        if any(attached.target == id for attached in service.spec.task.networks):
            raise FailedPrecondition(f"network {id} is in use by service {service.id}")
    for task in state.tasks_attached(id).values():
        if task.is_live and state.is_wanted(task):
            raise FailedPrecondition(f"network {id} is in use by task {task.id}")
    return [Remove("network", id, network.meta.version)]


def leaving(state: ClusterState, id: NetworkId) -> bool:
    """Whether tasks of removed services still are on the network. Agents that are down end none."""
    return any(
        not state.is_wanted(task) and not task.state.is_terminal and _can_end(state, task)
        for task in state.tasks_attached(id).values()
    )


def _can_end(state: ClusterState, task: Task) -> bool:
    node = state.nodes.get(task.node) if task.node is not None else None
    return node is not None and node.status.state is NodeState.READY


def needs_ingress(service: Service) -> bool:
    return any(port.mode == "ingress" for port in service.spec.endpoint.ports)
