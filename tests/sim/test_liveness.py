"""Who says that a node is down, and when, with several managers and with one that was itself
away."""

import msgspec
import pytest

from tests.support.control_room import ControlRoom
from weft.manager.liveness import MANY, Liveness
from weft.model.ids import NodeId
from weft.model.leadership_status import LeadershipStatus
from weft.model.meta import SECOND
from weft.model.node import NodeState

FIRST, SECOND_MANAGER = NodeId("m1"), NodeId("m2")
BOTH = LeadershipStatus(FIRST, frozenset((FIRST, SECOND_MANAGER)))
ALONE = LeadershipStatus(FIRST, frozenset((FIRST,)))
GRACE = 15 * SECOND


@pytest.fixture
def room() -> ControlRoom:
    """Three nodes: n1 with the first manager, n2 and n3 with the second."""
    room = ControlRoom(3)
    for id, manager in (("node1", FIRST), ("node2", SECOND_MANAGER), ("node3", SECOND_MANAGER)):
        node = room.state.nodes[NodeId(id)]
        room.put(
            msgspec.structs.replace(
                node, status=msgspec.structs.replace(node.status, manager=manager)
            )
        )
    return room


def look(
    room: ControlRoom, liveness: Liveness, leadership_status: LeadershipStatus, seconds: float = 0
) -> set[str]:
    """Who is found down within so many seconds, when the function is asked as often as it wants to
    be."""
    end = room.now + round(seconds * SECOND)
    found = set()
    while True:
        decision = liveness.reconcile(room.state, room.now, leadership_status)
        room.commit(decision.changes)
        found |= {change.object.id for change in decision.changes}  # type: ignore[union-attr]
        assert decision.wake_at is not None
        if decision.wake_at > end:
            room.now = end
            return found
        room.now = decision.wake_at


def test_a_manager_speaks_for_its_own_nodes_only(room: ControlRoom) -> None:
    liveness = Liveness(FIRST)
    assert look(room, liveness, BOTH, 60) == {"node1"}
    assert room.state.nodes[NodeId("node1")].status.manager is None


def test_the_leader_speaks_for_the_nodes_of_a_manager_that_is_gone_after_the_usual_time(
    room: ControlRoom,
) -> None:
    leader, follower = Liveness(FIRST), Liveness(NodeId("m3"))
    look(room, leader, BOTH, 8)
    leader.heard(NodeId("node1"), room.state.cluster.spec, room.now + 100 * SECOND)  # type: ignore[union-attr]
    look(room, leader, BOTH, 30)
    assert look(room, leader, ALONE, 14) == set()
    assert look(room, follower, ALONE, 1) == set()
    assert look(room, leader, ALONE, 7) == {"node2", "node3"}


def test_who_comes_to_another_manager_in_time_is_not_lost(room: ControlRoom) -> None:
    leader = Liveness(FIRST)
    look(room, leader, ALONE, 10)
    node = room.state.nodes[NodeId("node2")]
    room.put(
        msgspec.structs.replace(
            node, status=msgspec.structs.replace(node.status, manager=NodeId("m3"))
        )
    )
    assert "node2" not in look(
        room, leader, LeadershipStatus(FIRST, frozenset((FIRST, NodeId("m3")))), 60
    )


@pytest.mark.parametrize("away", ["stopped", "without a majority"])
def test_a_manager_that_was_away_gives_everybody_time(room: ControlRoom, away: str) -> None:
    liveness = Liveness(FIRST)
    spec = room.state.cluster.spec  # type: ignore[union-attr]
    look(room, liveness, BOTH, 30 - 1)
    liveness.heard(NodeId("node1"), spec, room.now)
    if away == "stopped":
        room.now += 100 * SECOND
    else:
        for _ in range(20):
            liveness.forget()
            room.now += spec.heartbeat
    assert look(room, liveness, BOTH, 14) == set()
    liveness.heard(NodeId("node1"), spec, room.now)
    assert look(room, liveness, BOTH, 14) == set()
    assert room.state.nodes[NodeId("node1")].status.state is NodeState.READY
    assert look(room, liveness, BOTH, 7) == {"node1"}


def test_many_silent_nodes_get_more_time_while_others_come_back() -> None:
    room, liveness = ControlRoom(MANY + 1), Liveness(FIRST)
    for node in list(room.state.nodes.values()):
        room.put(
            msgspec.structs.replace(
                node, status=msgspec.structs.replace(node.status, manager=FIRST)
            )
        )
    spec = room.state.cluster.spec  # type: ignore[union-attr]
    everybody = set(room.state.nodes)
    look(room, liveness, ALONE, 29)
    for _ in range(60 - 30):
        liveness.arrived(NodeId("node1"), spec, room.now)
        assert look(room, liveness, ALONE, 1) == set()
    assert look(room, liveness, ALONE, 10) == everybody - {"node1"}, "nobody came for a while"


def test_many_silent_nodes_are_down_at_last_however_often_one_comes_back() -> None:
    room, liveness = ControlRoom(MANY + 1), Liveness(FIRST)
    for node in list(room.state.nodes.values()):
        room.put(
            msgspec.structs.replace(
                node, status=msgspec.structs.replace(node.status, manager=FIRST)
            )
        )
    look(room, liveness, ALONE, 29)
    found = set()
    for _ in range(50):
        liveness.arrived(NodeId("node1"), room.state.cluster.spec, room.now)  # type: ignore[union-attr]
        found |= look(room, liveness, ALONE, 1)
    assert found == set(room.state.nodes) - {"node1"}


def test_a_few_silent_nodes_get_no_more_time(room: ControlRoom) -> None:
    liveness = Liveness(FIRST)
    found = set()
    for _ in range(32):
        liveness.arrived(NodeId("node1"), room.state.cluster.spec, room.now)  # type: ignore[union-attr]
        found |= look(room, liveness, ALONE, 1)
    assert found == {"node2", "node3"}
