"""Which nodes are alive: a node that has not been heard of for three heartbeats is DOWN.

A session that ends proves nothing: the daemon may be restarting, and its containers run on. Only silence counts. At start the
manager has heard of nobody, so everyone gets twice the time to come back; the same goes for a node that has just been admitted.
"""

import msgspec

from weft.model.cluster import ClusterSpec
from weft.model.ids import NodeId
from weft.model.meta import Nanoseconds
from weft.model.node import Node, NodeState, NodeStatus
from weft.model.state import ClusterState, Decision, Put

GRACE_PERIODS = 3
"""Heartbeats that may be missed, as in the original."""
START_FACTOR = 2


def grace(spec: ClusterSpec) -> Nanoseconds:
    return GRACE_PERIODS * spec.heartbeat


class Liveness:
    """A control function with one thing of its own: until when each node is believed alive."""

    def __init__(self) -> None:
        self._deadlines: dict[NodeId, Nanoseconds] = {}

    def heard(self, node: NodeId, spec: ClusterSpec, now: Nanoseconds) -> None:
        self._deadlines[node] = now + grace(spec)

    def reconcile(self, state: ClusterState, now: Nanoseconds) -> Decision:
        """Nodes whose time is over become DOWN; asks to be called when the next one's may be."""
        cluster = state.cluster
        if cluster is None:
            return Decision()
        alive = {id: node for id, node in state.nodes.items() if node.status.state is not NodeState.DOWN}
        first = now + START_FACTOR * grace(cluster.spec)
        self._deadlines = {id: self._deadlines.get(id, first) for id in alive}
        silent = [node for id, node in alive.items() if self._deadlines[id] <= now]
        waiting = [deadline for deadline in self._deadlines.values() if deadline > now]
        return Decision(tuple(Put(_down(node, now)) for node in silent), min(waiting, default=None))


def _down(node: Node, now: Nanoseconds) -> Node:
    status = NodeStatus(NodeState.DOWN, message="heartbeat failure", address=node.status.address, since=now)
    return msgspec.structs.replace(node, status=status)
