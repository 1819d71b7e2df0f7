"""What an agent does not take for its certificate, whatever a manager says."""

import pytest

from tests.support import virtual_time
from tests.support.certified import HOUR
from weft.errors import InvalidArgument
from weft.model.cluster import RootCa
from weft.model.ids import ClusterId, NodeId
from weft.model.node import Role
from weft.pki import authority
from weft.session.credentials import accepted
from weft.session.identity import Credentials

# --- what an agent does not take

NOW = virtual_time.START


def root_of(seed: int) -> RootCa:
    return authority.root(authority.make_key(lambda n: bytes([seed]) * n), NOW, seed)


def own(
    root: RootCa,
    seed: int = 9,
    node: str = "n1",
    role: Role = "worker",
    cluster: str = "c1",
    begin: int = NOW,
) -> Credentials:
    key = authority.make_key(lambda n: bytes([seed]) * n)
    certificate = authority.issue(
        root,
        authority.request(key),
        authority.NodeCertificate(
            node=NodeId(node),
            role=role,
            cluster=ClusterId(cluster),
            begin=begin,
            lifetime=HOUR,
            serial=5,
        ),
    )
    return Credentials(certificate, authority.private_pem(key), root.certificate)


def test_what_an_agent_does_not_take_for_its_certificate() -> None:
    root, other = root_of(1), root_of(2)
    held, key = own(root), own(root, seed=8).key
    good = own(root, seed=8, role="manager").certificate
    assert accepted(held, good, key, [root.certificate], NOW) == Credentials(
        good, key, root.certificate
    )
    for wrong, why in (
        (own(root, seed=7).certificate, "another key"),
        (own(root, seed=8, node="n2").certificate, "node n2"),
        (own(root, seed=8, cluster="c2").certificate, "cluster c2"),
        (own(other, seed=8).certificate, "did not sign it"),
        (own(root, seed=8, begin=NOW - 3 * HOUR).certificate, "it is good from"),
        (root.certificate, "no role of a node"),
        ("nonsense", "cannot read certificate"),
    ):
        with pytest.raises(InvalidArgument, match=why):
            accepted(held, wrong, key, [root.certificate], NOW)
    assert (
        accepted(
            held, own(other, seed=8).certificate, key, [other.certificate, root.certificate], NOW
        ).root
        == other.certificate
    )
