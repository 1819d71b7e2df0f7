"""The end of a root rotation: when every node has shown a certificate of the new root, the new root
replaces the old one.

Join tokens contain a digest of the root, so both are made anew. A node that is down delays the end
until it is back or removed; otherwise it could not rejoin. For the same reason every node must
already trust the root that is being replaced, so that no node is ever two roots behind.
"""

from collections.abc import Callable

import msgspec

from weft.model.cluster import Cluster, JoinTokens, RootRotation
from weft.model.meta import Nanoseconds
from weft.model.state import ClusterState, Decision, Put
from weft.pki.certificate import fingerprint, signer_id
from weft.pki.tokens import SECRET_BYTES, make_token


def reconcile(state: ClusterState, now: Nanoseconds, entropy: Callable[[int], bytes]) -> Decision:
    """`entropy(n)` returns n random bytes."""
    cluster = state.cluster
    if cluster is None or cluster.rotation is None:
        return Decision()
    wanted = (
        signer_id(cluster.rotation.root_ca.certificate),
        fingerprint(cluster.root_ca.certificate),
    )
    if any(
        (node.certificate.issuer, node.certificate.trusted) != wanted
        for node in state.nodes.values()
    ):
        return Decision()
    return Decision((Put(finished(cluster, cluster.rotation, entropy)),))


def finished(cluster: Cluster, rotation: RootRotation, entropy: Callable[[int], bytes]) -> Cluster:
    root = rotation.root_ca.certificate
    worker, manager = (make_token(root, entropy(SECRET_BYTES)) for _ in range(2))
    return msgspec.structs.replace(
        cluster,
        root_ca=rotation.root_ca,
        rotation=None,
        cross_signed=rotation.cross_signed,
        join_tokens=JoinTokens(worker=worker, manager=manager),
    )
