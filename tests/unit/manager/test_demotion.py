"""Whether a swarm can do without a manager: those that are left must be able to agree, which takes
more than half of them."""

import pytest

from weft.control.requests.nodes import update
from weft.errors import FailedPrecondition
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.leadership_status import LeadershipStatus
from weft.model.meta import Meta
from weft.model.node import Node, NodeSpec, Role
from weft.model.state import Change, ClusterState, Put

LOSS = (
    "rpc error: code = FailedPrecondition desc = can't remove member from the raft: this would"
    " result in a loss of quorum"
)
LAST = (
    "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm"
)


def manager(name: str, address: str = "10.0.0.1:2377", role: Role = "manager") -> Node:
    return Node(
        id=NodeId(name), meta=Meta(version=1), spec=NodeSpec(role=role), manager_address=address
    )


def demoted(nodes: list[Node], name: str, present: str) -> list[Change]:
    cluster = Cluster(id=ClusterId("c"), root_ca=RootCa("", ""), join_tokens=JoinTokens("", ""))
    state = ClusterState([cluster, *nodes], 1)
    node = state.nodes[NodeId(name)]
    leadership_status = LeadershipStatus(present=frozenset(map(NodeId, present)))
    return update(state, node.id, node.meta.version, NodeSpec(role="worker"), leadership_status)


@pytest.mark.parametrize(
    ("managers", "demotes", "present"),
    [
        ("ab", "b", "ab"), ("ab", "b", "a"), ("abc", "c", "abc"), ("abc", "c", "ab"), ("abcd", "d", "abcd"), ("abcd", "d", "ab"),
        ("abcd", "a", "bcd"), ("abcde", "e", "abcd"), ("abcde", "e", "abc"), ("abcdefg", "g", "abcd"),
    ],
)  # fmt: skip
def test_a_manager_is_demoted_while_more_than_half_of_the_others_are_there(
    managers: str, demotes: str, present: str
) -> None:
    [after] = [
        c.object
        for c in demoted([manager(m) for m in managers], demotes, present)
        if isinstance(c, Put)
    ]
    assert isinstance(after, Node)
    assert (after.id, after.spec.role) == (demotes, "worker")


@pytest.mark.parametrize(
    ("managers", "demotes", "present"),
    [
        ("ab", "b", "b"), ("ab", "b", ""), ("abc", "c", "ac"), ("abc", "a", "ab"), ("abcd", "d", "ad"), ("abcde", "e", "abe"),
        ("abcde", "e", "ab"), ("abcdefg", "g", "abcg"),
    ],
)  # fmt: skip
def test_a_demotion_that_would_lose_the_quorum_is_refused(
    managers: str, demotes: str, present: str
) -> None:
    """Also where the one to be demoted is there and would make a majority with the others: it is
    the others who must go on."""
    with pytest.raises(FailedPrecondition) as refused:
        demoted([manager(m) for m in managers], demotes, present)
    assert str(refused.value) == LOSS


def test_who_does_not_serve_yet_or_is_not_to_go_on_counts_neither_way() -> None:
    arriving, leaving = manager("x", address=""), manager("y", role="worker")
    for beside in ([], [arriving], [leaving], [arriving, leaving]):
        assert demoted([manager("a"), manager("b"), *beside], "b", "ab")
        with pytest.raises(FailedPrecondition, match="loss of quorum"):
            demoted([manager("a"), manager("b"), *beside], "b", "bxy")
        with pytest.raises(FailedPrecondition) as refused:
            demoted([manager("a"), *beside], "a", "axy")
        assert str(refused.value) == LAST
