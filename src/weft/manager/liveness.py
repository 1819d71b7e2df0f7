"""Which nodes are alive: a node that has not been heard of for three heartbeats is DOWN.

A session that ends proves nothing: the daemon may be restarting, and its containers run on. Only
silence counts, and only the manager that a node's session is with can tell silence: it says when
the node is down. Nodes whose manager is itself gone are the leader's, which gives them the same
time again to come to another manager. At start a manager has heard of nobody, so everyone gets
twice the time to come back; the same goes for a node that has just been admitted.

A manager that was itself silent, because it was stopped or had no majority, heard nobody for that
reason: the time begins anew. And while many nodes are silent and others are coming back, one at
least in every heartbeat, those have most likely only to wait for their turn, as when a thousand of
them have lost their manager at once: they get more time, but not for ever.
"""

import msgspec

from weft.model.cluster import ClusterSpec
from weft.model.ids import NodeId
from weft.model.leadership_status import LeadershipStatus
from weft.model.meta import Nanoseconds
from weft.model.node import Node, NodeState
from weft.model.state import ClusterState, Decision, Put

GRACE_PERIODS = 3
"""Heartbeats that may be missed, as in Docker Swarm."""
START_FACTOR = 2
STALLED = 2
"""Heartbeats between two looks."""
MANY = 10
"""Silent nodes."""
MOST_GRACES = 4
"""After which they are down in any case."""


def grace(spec: ClusterSpec) -> Nanoseconds:
    return GRACE_PERIODS * spec.heartbeat


class Liveness:
    """A control function of the manager `own` with one thing of its own: until when each node is
    believed alive."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._deadlines: dict[NodeId, Nanoseconds] = {}
        self._began: Nanoseconds | None = None
        self._last: Nanoseconds | None = None
        self._arrived: Nanoseconds | None = None

    def arrived(self, node: NodeId, spec: ClusterSpec, now: Nanoseconds) -> None:
        """It has opened a session."""
        self._arrived = now
        self.heard(node, spec, now)

    def heard(self, node: NodeId, spec: ClusterSpec, now: Nanoseconds) -> None:
        self._deadlines[node] = now + grace(spec)

    def forget(self) -> None:
        """Nobody could have been heard until now."""
        self._deadlines, self._last = {}, None

    def reconcile(
        self, state: ClusterState, now: Nanoseconds, leadership_status: LeadershipStatus
    ) -> Decision:
        """Nodes whose time is over become DOWN. Asks to be called at least once in a heartbeat:
        that a manager has gone is no change of the state, and a longer pause tells that this one
        was stopped."""
        cluster = state.cluster
        if cluster is None:
            return Decision()
        heartbeat = cluster.spec.heartbeat
        if self._began is None:
            self._began = now
        if self._last is not None and now - self._last > STALLED * heartbeat:
            self._deadlines = {}
        self._last = now
        first = max(now + grace(cluster.spec), self._began + START_FACTOR * grace(cluster.spec))
        alive = {
            id: node
            for id, node in state.nodes.items()
            if self._answers_for(node, leadership_status)
        }
        self._deadlines = {id: self._deadlines.get(id, first) for id in alive}
        silent = [id for id, deadline in self._deadlines.items() if deadline <= now]
        lost = self._without_those_in_the_queue(silent, cluster.spec, now)
        waiting = [
            now + heartbeat,
            *(deadline for deadline in self._deadlines.values() if deadline > now),
        ]
        return Decision(tuple(Put(_down(alive[id], now)) for id in lost), min(waiting))

    def _without_those_in_the_queue(
        self, silent: list[NodeId], spec: ClusterSpec, now: Nanoseconds
    ) -> list[NodeId]:
        if len(silent) < MANY or self._arrived is None or now - self._arrived >= spec.heartbeat:
            return silent
        more = (MOST_GRACES - 1) * grace(spec)
        return [id for id in silent if self._deadlines[id] + more <= now]

    def _answers_for(self, node: Node, leadership_status: LeadershipStatus) -> bool:
        if node.status.state is NodeState.DOWN:
            return False
        if node.status.manager == self._own:
            return True
        return (
            leadership_status.leader == self._own
            and node.status.manager not in leadership_status.present
        )


def _down(node: Node, now: Nanoseconds) -> Node:
    status = msgspec.structs.replace(
        node.status, state=NodeState.DOWN, message="heartbeat failure", since=now, manager=None
    )
    return msgspec.structs.replace(node, status=status)
