"""Whom a batch of changes may concern: the nodes that run something of it, and the networks on which something of it is seen.

It may name too many, never too few: a node that is named and sees no difference is sent nothing.
"""

from collections.abc import Iterable

import msgspec

from weft.model.cluster import Cluster
from weft.model.ids import NetworkId, NodeId
from weft.model.network import Network
from weft.model.node import Node
from weft.model.service import Service
from weft.model.state import ClusterState, Event, Object
from weft.model.task import Task


class Touched(msgspec.Struct, frozen=True):
    nodes: frozenset[NodeId] = frozenset()
    networks: frozenset[NetworkId] = frozenset()

    def __or__(self, other: "Touched") -> "Touched":
        return Touched(self.nodes | other.nodes, self.networks | other.networks)


def touched(events: Iterable[Event], state: ClusterState) -> Touched:
    nodes: set[NodeId] = set()
    networks: set[NetworkId] = set()
    for event in events:
        for obj in (event.before, event.after):
            if obj is not None:
                nodes |= _nodes(obj)
                networks |= _networks(obj, state)
    return Touched(frozenset(nodes), frozenset(networks))


def _nodes(obj: Object) -> set[NodeId]:
    if isinstance(obj, Node):
        return {obj.id}
    return {obj.node} if isinstance(obj, Task) and obj.node is not None else set()


def _networks(obj: Object, state: ClusterState) -> set[NetworkId]:
    match obj:
        case Cluster():
            # Its keys go to whoever is on an encrypted network.
            return {network.id for network in state.networks.values() if network.spec.encrypted}
        case Network():
            return {obj.id}
        case Task():
            return {attachment.network for attachment in obj.attachments}
        case Service():
            ingress = {state.ingress.id} if state.ingress else set()
            attached = {network.target for network in obj.spec.task.networks}
            return ingress | attached | {address.network for address in obj.endpoint.addresses}
        case Node():
            # A node's address is in the endpoints of all that it runs.
            running = (state.tasks[id].attachments for id in state.tasks_on(obj.id))
            return {a.network for attachments in (obj.attachments, *running) for a in attachments}
    return set()
