"""What a manager says that is to leave the swarm without having been demoted: Docker Swarm's words,
by who would be left."""

from dataclasses import dataclass
from typing import Any, cast

import pytest

from weft.daemon.host_node import LAST_MANAGER, ONLY_WAY, _what_leaving_means
from weft.model.ids import NodeId
from weft.model.leadership_status import LeadershipStatus
from weft.model.node import Node, NodeSpec
from weft.model.state import ClusterState


@dataclass(frozen=True)
class Known:
    """What a manager knows of the managers."""

    state: ClusterState
    leadership_status: LeadershipStatus


def known(managers: str, present: str) -> Any:
    nodes = [
        Node(id=NodeId(m), spec=NodeSpec(role="manager"), manager_address=f"{m}:2377")
        for m in managers
    ]
    worker = Node(id=NodeId("w"), spec=NodeSpec(role="worker"))
    return Known(
        ClusterState([*nodes, worker], 1), LeadershipStatus(present=frozenset(map(NodeId, present)))
    )


@pytest.mark.parametrize(
    ("managers", "present"),
    [("abc", "abc"), ("abcd", "abcd"), ("abcde", "abcde"), ("abcde", "abcd")],
)
def test_where_enough_are_left_there_is_the_general_warning_only(
    managers: str, present: str
) -> None:
    assert _what_leaving_means(known(managers, present)) == ONLY_WAY


@pytest.mark.parametrize(
    ("managers", "present", "left"), [("ab", "ab", 1), ("abc", "ab", 1), ("abcd", "abc", 2), ("abcde", "abc", 2), ("ab", "aw", 0)]
)  # fmt: skip
def test_where_the_quorum_would_be_lost_it_says_how_many_are_left(
    managers: str, present: str, left: int
) -> None:
    said = _what_leaving_means(known(managers, present))
    assert said.startswith(
        f"Removing this node leaves {left} managers out of {len(managers)}. Without a Raft quorum"
    )
    assert said.endswith(ONLY_WAY)


def test_the_last_one_takes_the_swarm_along_and_one_without_a_seat_cannot_tell() -> None:
    assert _what_leaving_means(known("a", "a")) == LAST_MANAGER
    assert _what_leaving_means(cast(Any, None)).startswith(
        "Doing so may lose the consensus of your cluster. "
    )
