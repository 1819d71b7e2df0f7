"""Decides which nodes are alive: a node that was silent for three heartbeats is DOWN.

The end of a session proves nothing: the daemon may be restarting while its containers run on. Only
silence counts. The manager that has a node's session measures that silence and marks the node DOWN.
If this manager is lost, the leader takes over its nodes and gives them the same time again to reach
another manager. A manager that has just started has heard nobody, so every node gets twice the time
to come back. A node that was just admitted gets the full time as well.

A manager that was stopped, or had no quorum, heard nobody for that reason: the time begins anew.
When a thousand nodes lose their manager at once, they come back in a queue. While many nodes are
silent and at least one comes back in every heartbeat, the silent ones are most likely in that
queue: they get more time, but not for ever.

All times here are `steady`, but for what is stored."""

import asyncio

import msgspec

from weft.model.cluster import ClusterSpec
from weft.model.ids import NodeId
from weft.model.leadership_status import LeadershipStatus
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import Node, NodeState
from weft.model.state import ClusterState, Decision, Put

GRACE_PERIODS = 3
"""Heartbeats that a node may miss, as in Docker Swarm."""
START_FACTOR = 2
STALLED = 2
"""Heartbeats. A longer pause between two runs means that this manager was stopped."""
MANY = 10
"""Silent nodes that count as many."""
MOST_GRACES = 4
"""Grace times after which a silent node is DOWN in any case."""


def steady() -> Nanoseconds:
    """The time by which silence is measured: nobody sets the event loop's clock."""
    return round(asyncio.get_running_loop().time() * SECOND)


def grace(spec: ClusterSpec) -> Nanoseconds:
    return GRACE_PERIODS * spec.heartbeat


class Liveness:
    """A control function of the manager `own`. It remembers until when each node is believed to be
    alive."""

    def __init__(self, own: NodeId) -> None:
        self._own = own
        self._deadlines: dict[NodeId, Nanoseconds] = {}
        self._began: Nanoseconds | None = None
        self._last: Nanoseconds | None = None
        self._arrived: Nanoseconds | None = None

    def arrived(self, node: NodeId, spec: ClusterSpec, now: Nanoseconds) -> None:
        """The node has opened a session."""
        self._arrived = now
        self.heard(node, spec, now)

    def heard(self, node: NodeId, spec: ClusterSpec, now: Nanoseconds) -> None:
        self._deadlines[node] = now + grace(spec)

    def forget(self) -> None:
        """Forgets all deadlines: until now no node could have been heard."""
        self._deadlines, self._last = {}, None

    def reconcile(
        self,
        state: ClusterState,
        now: Nanoseconds,
        leadership_status: LeadershipStatus,
        since: Nanoseconds | None = None,
    ) -> Decision:
        """Marks nodes DOWN whose time is over, `since` this time of day (None: `now`). Asks to be
        run at least once per heartbeat: the loss of a manager is no change of the state, and a
        longer pause shows that this manager was stopped."""
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
        moment = now if since is None else since
        return Decision(tuple(Put(_down(alive[id], moment)) for id in lost), min(waiting))

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
