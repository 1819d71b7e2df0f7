"""Revocation of former managers' certificates. A certificate is valid for months, and its key may
have been copied.

    issued    the node's record has the serial before anybody has the certificate; a manager that is
              being demoted is issued none
    revoked   by the commit after which the node is no longer to be a manager
    refused   by every manager's session listener at once; by the manager's etcd member once
              `manager/members.py` has arranged that; by agents, as servers, when they are told
    expired   forgotten

Functions of the state; `now` in nanoseconds since 1970.
"""

from collections.abc import Iterable

import msgspec

from weft.errors import FailedPrecondition, Forbidden
from weft.model.certificate import ManagerCertificate, unexpired
from weft.model.cluster import Cluster
from weft.model.meta import Nanoseconds
from weft.model.node import Node
from weft.model.state import Change, ClusterState, Put, cluster_of

MOST = 256
"""Most unexpired certificates of one manager. A manager is issued two or three in their lifetime,
and one at each change of the root; the limit keeps a hostile manager from filling the store."""
Certificates = tuple[ManagerCertificate, ...]


def issued(
    state: ClusterState, node: Node, certificate: ManagerCertificate, now: Nanoseconds
) -> list[Change]:
    """Changes to commit before the node, which may be new, is given this certificate. Raises
    `FailedPrecondition`."""
    if node.spec.role != "manager":
        cause = "it is to be a worker and is a manager still"
        raise FailedPrecondition(f"cannot issue certificate to node {node.id}: {cause}")
    kept = unexpired(node.manager_certificates, now)
    if len(kept) >= MOST:
        cause = f"it has {len(kept)} that have not expired"
        raise FailedPrecondition(f"cannot issue certificate to node {node.id}: {cause}")
    after = Put(msgspec.structs.replace(node, manager_certificates=(*kept, certificate)))
    cluster = cluster_of(state)
    left = unexpired(cluster.revoked, now)
    if left == cluster.revoked:
        return [after]
    return [after, Put(msgspec.structs.replace(cluster, revoked=left))]


def shown(
    state: ClusterState, node: Node, certificate: ManagerCertificate | None
) -> tuple[Node, list[Change]]:
    """The node, which has opened a session with this certificate, and further changes to commit.
    `certificate`: None for a worker's. A certificate that the state does not know was issued after
    the backup from which the state was restored."""
    cluster = cluster_of(state)
    if certificate is None or _is_known(cluster, node, certificate.serial):
        return node, []
    if node.spec.role != "manager":
        return node, [Put(_with(cluster, [certificate]))]
    certificates = (*node.manager_certificates, certificate)
    return msgspec.structs.replace(node, manager_certificates=certificates), []


def revoked(cluster: Cluster, nodes: Iterable[Node]) -> Cluster:
    """The cluster with all manager certificates of these nodes revoked. `without` takes them off
    the nodes."""
    certificates = [certificate for node in nodes for certificate in node.manager_certificates]
    return _with(cluster, certificates) if certificates else cluster


def without(node: Node) -> Node:
    return msgspec.structs.replace(node, manager_certificates=())


def revoking(state: ClusterState, node: Node) -> list[Change]:
    """Changes that write the node as given, and revoke its manager certificates."""
    before = cluster_of(state)
    after = revoked(before, [node])
    return [Put(without(node)), *([Put(after)] if after != before else [])]


def is_revoked(cluster: Cluster, serial: str) -> bool:
    return any(serial == certificate.serial for certificate in cluster.revoked)


def check_session(state: ClusterState, node: Node, serial: str) -> None:
    """`serial`: of the certificate that the node shows. A demoted node has only its revoked
    certificate to ask for a new one with. Once the node has shown the new certificate, earlier
    revoked ones are refused. Raises `Forbidden`."""
    cluster, last = cluster_of(state), node.certificate.serial
    if last and is_revoked(cluster, serial) and not is_revoked(cluster, last):
        raise Forbidden(f"the certificate {serial} of node {node.id} was revoked")


def _is_known(cluster: Cluster, node: Node, serial: str) -> bool:
    known = [certificate.serial for certificate in node.manager_certificates]
    return serial in known or is_revoked(cluster, serial)


def _with(cluster: Cluster, certificates: Iterable[ManagerCertificate]) -> Cluster:
    both, count = (*cluster.revoked, *certificates), cluster.revocations + 1
    return msgspec.structs.replace(cluster, revoked=both, revocations=count)
