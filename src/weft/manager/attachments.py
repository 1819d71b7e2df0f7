"""Grants nodes the places of their own containers on networks of the swarm, and notes the places
that they have given up."""

from weft.control.requests.attachments import attachment
from weft.errors import Exhausted, FailedPrecondition, OperationFailed
from weft.manager.statuses import Report, merged
from weft.manager.transaction import transact
from weft.model.attached import AttachmentGrant
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.network_lookup import find_network
from weft.session.base import AttachmentRequest
from weft.store.base import Store


async def attach(
    store: Store, node: NodeId, request: AttachmentRequest, now: Nanoseconds
) -> AttachmentGrant:
    """See `session.base.Manager.attach`. The places that the node has given up are free before it
    gets another: a container that was restarted asks for the address that it had."""
    ended = Report(node, request.ended)
    await transact(store, lambda state: merged(state, [ended]), independent=True)
    wanted = request.wanted
    try:
        await transact(store, lambda state: attachment(state, node, request.id, wanted, now))
    except (Exhausted, OperationFailed) as error:
        raise FailedPrecondition(str(error)) from error
    task = store.state.tasks.get(request.id)
    if task is None or not task.attachments:
        raise FailedPrecondition(f"cannot attach container {wanted.container.name}: it was ended")
    network = find_network(store.state.networks.values(), task.attachments[0].network)
    return AttachmentGrant(
        network=network.id, name=network.name, address=task.attachments[0].address
    )
