"""When a new root takes the old one's place."""

import msgspec
import pytest

from weft.control import rotation
from weft.model.cluster import Cluster, JoinTokens, RootCa, RootRotation
from weft.model.ids import ClusterId, NodeId
from weft.model.meta import SECOND
from weft.model.node import CertificateInfo, Node, NodeState, NodeStatus
from weft.model.state import ClusterState, Put
from weft.pki import authority
from weft.pki.certificate import fingerprint, signer_id
from weft.pki.tokens import parse_token

NOW = 1_800_000_000 * SECOND


def root_of(seed: int) -> RootCa:
    return authority.root(authority.make_key(lambda n: bytes([seed]) * n), NOW, seed)


OLDER, OLD, NEW = (root_of(seed) for seed in (1, 2, 3))


def state_of(*nodes: tuple[RootCa, RootCa] | None, rotating: bool = True) -> ClusterState:
    """Nodes by who signed their certificate and whom they trust; None was never heard of."""
    state = ClusterState()
    way = RootRotation(NEW, "new by old")
    tokens = JoinTokens("worker", "manager")
    cluster = Cluster(
        id=ClusterId("c"),
        root_ca=OLD,
        rotation=way if rotating else None,
        join_tokens=tokens,
        cross_signed="old by older",
    )
    known = [
        Node(
            id=NodeId(f"n{number}"), status=NodeStatus(NodeState.DOWN),
            certificate=CertificateInfo(signer_id(pair[0].certificate), fingerprint(pair[1].certificate))
            if pair else CertificateInfo(),
        )
        for number, pair in enumerate(nodes)
    ]  # fmt: skip
    state.apply([Put(cluster), *map(Put, known)], NOW)
    return state


def entropy(n: int) -> bytes:
    return b"\x07" * n


@pytest.mark.parametrize(
    "nodes",
    [
        [(NEW, OLD), (OLD, OLD)],
        [(NEW, OLD), None],
        [(NEW, OLDER), (NEW, OLD)],
    ],
    ids=["old certificate", "never seen", "two roots behind"],
)
def test_it_waits_for_every_node(nodes: list[tuple[RootCa, RootCa] | None]) -> None:
    assert rotation.reconcile(state_of(*nodes), NOW, entropy).changes == ()


def test_it_ends_when_all_have_shown_the_new_one() -> None:
    state = state_of((NEW, OLD), (NEW, OLD))
    assert state.cluster is not None
    (change,) = rotation.reconcile(state, NOW, entropy).changes
    assert isinstance(change, Put)
    after = change.object
    assert isinstance(after, Cluster)
    assert after.root_ca == NEW
    assert after.rotation is None
    assert after.cross_signed == "new by old"
    for token in (after.join_tokens.worker, after.join_tokens.manager):
        assert parse_token(token).recognises(NEW.certificate)
    same = msgspec.structs.replace(
        state.cluster,
        root_ca=after.root_ca,
        rotation=None,
        cross_signed=after.cross_signed,
        join_tokens=after.join_tokens,
    )
    assert after == same, "nothing else changes"


def test_there_is_nothing_to_do_without_one() -> None:
    assert rotation.reconcile(ClusterState(), NOW, entropy).changes == ()
    assert rotation.reconcile(state_of((OLD, OLD), rotating=False), NOW, entropy).changes == ()
