"""A node's request to put one of its own containers on a network of the swarm.

The container gets its address here, in the transaction of the request, and not from the allocator:
the node waits for the answer. A commit that was decided on an older state fails and is decided
again, so no address is given twice. The task that stands for the container's place is assigned from
birth: the node that asks is the container's. It ends when the node says so, when the node is
removed, or when the node has been down for a day (`orchestrator/nodes.py`).
"""

from ipaddress import IPv4Address

import msgspec

from weft.control.allocator.addresses import NONE_FIXED, Book, unusable
from weft.errors import Conflict, Exhausted, Forbidden, InvalidArgument
from weft.model.attached import AttachmentWanted
from weft.model.ids import NetworkId, NodeId, ServiceId, TaskId
from weft.model.meta import Nanoseconds
from weft.model.network import Network
from weft.model.network_lookup import find_network
from weft.model.service import ContainerSpec, NetworkAttachmentSpec, TaskSpec
from weft.model.state import Change, ClusterState, Put
from weft.model.task import Attachment, Task, TaskState, TaskStatus

MOST = 1000
"""Places of one node: one that was taken over must not fill the store."""
ATTACHED_MESSAGE = "container attached by its node"


def attachment(
    state: ClusterState, node: NodeId, id: TaskId, wanted: AttachmentWanted, now: Nanoseconds
) -> list[Change]:
    """`id`: chosen by the node. A request that was granted before changes only the container's
    names. Raises `NotFound`, `Forbidden` with Docker's text for a network that is not attachable,
    `InvalidArgument` or `Conflict` for an address that cannot be had, `Exhausted`, and
    `OperationFailed` for a network without a subnet."""
    known = state.tasks.get(id)
    if known is not None:
        return _again(known, node, wanted)
    network = find_network(state.networks.values(), wanted.network)
    if not network.spec.attachable:
        raise Forbidden(f"network {wanted.network} not manually attachable")
    if sum(task.attached is not None for task in state.tasks_on(node).values()) >= MOST:
        raise Exhausted(
            f"cannot attach container {wanted.container.name}: its node has {MOST} places on"
            " networks of the swarm"
        )
    if wanted.address is not None:
        _check_address(state, network, wanted.address)
    fixed = NONE_FIXED if wanted.address is None else {network.id: wanted.address}
    book = Book(state, dict(state.networks))
    address = book.take([network.id], fixed)[network.id]
    task = Task(
        id=id,
        service=ServiceId(""),
        service_name="",
        spec=TaskSpec(
            container=ContainerSpec(image=""),
            networks=(NetworkAttachmentSpec(network.id, wanted.container.aliases),),
        ),
        node=node,
        attachments=(Attachment(network.id, address, wanted.container.aliases),),
        status=TaskStatus(TaskState.ASSIGNED, now, ATTACHED_MESSAGE),
        attached=wanted.container,
    )
    moved = [Put(_with_cursor(network, cursor)) for cursor in book.cursors.values()]
    return [Put(task), *moved]


def _again(known: Task, node: NodeId, wanted: AttachmentWanted) -> list[Change]:
    if known.node != node or known.attached is None or known.state.is_terminal:
        raise Conflict(f"task {known.id} is not a place of a container of this node")
    if known.attached == wanted.container:
        return []
    return [Put(msgspec.structs.replace(known, attached=wanted.container))]


def _with_cursor(network: Network, cursor: int) -> Network:
    return msgspec.structs.replace(network, cursor=cursor)


def _check_address(state: ClusterState, network: Network, address: IPv4Address) -> None:
    cause = unusable(network, address)
    if cause:
        raise InvalidArgument(f"address {address} on network {network.name} {cause}")
    number, usage = int(address), state.usage
    if number in usage.addresses(network.id):
        holder = _holder(state, network.id, address)
        raise Conflict(f"address {address} on network {network.name} is already in use by {holder}")
    if number in usage.fixed(network.id):
        raise Conflict(f"address {address} on network {network.name} is kept for a service")


def _holder(state: ClusterState, network: NetworkId, address: IPv4Address) -> str:
    for task in state.tasks_attached(network).values():
        if task.has(network, address) and not task.state.is_terminal:
            return f"{'task' if task.attached is None else 'container'} {task.name}"
    for service in state.services.values():
        if any((a.network, a.address.ip) == (network, address) for a in service.endpoint.addresses):
            return f"service {service.name}"
    return "a node's load balancer"
