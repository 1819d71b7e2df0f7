"""Nodes as users and joining hosts ask for them: admitted with a token, changed, removed."""

from collections.abc import Callable

import msgspec

from weft.cluster.base import AdmissionRequest, Admitted
from weft.errors import FailedPrecondition, Forbidden, NotFound, OutOfSequence, Unsupported
from weft.manager.authority import Authority
from weft.manager.dispatch import manager_addresses
from weft.manager.transaction import cluster_of
from weft.model.ids import SWARM_ID_BYTES, NodeId, swarm_id
from weft.model.meta import Nanoseconds
from weft.model.node import Node, NodeDescription, NodeSpec, NodeState
from weft.model.state import Change, ClusterState, Put, Remove
from weft.store.base import Store

SERIAL_BYTES = 16
"""Of a certificate: X.509 allows 20 (RFC 5280 section 4.1.2.2)."""


async def admit(
    store: Store, authority: Authority, request: AdmissionRequest, now: Nanoseconds, entropy: Callable[[int], bytes]
) -> Admitted:  # fmt: skip
    """See `cluster.base.Manager.admit`. The certificate is made before the node is written: a request that cannot be served
    leaves nothing behind."""
    cluster = cluster_of(store.state)
    role = authority.role_of(request.token, cluster.join_tokens)
    if role is None:
        raise Forbidden("cannot join swarm: the join token is not valid; it may have been rotated")
    if role == "manager":
        raise Unsupported("cannot join swarm: a second manager is not supported yet, use the token for workers")
    id = NodeId(swarm_id(entropy(SWARM_ID_BYTES)))
    serial = int.from_bytes(entropy(SERIAL_BYTES), "big") | 1
    lifetime = cluster.spec.certificate_expiry
    certificate = authority.issue(cluster.root_ca, request.csr, id, role, cluster.id, now, lifetime, serial)
    node = Node(
        id=id,
        spec=NodeSpec(role=role, availability=request.availability),
        description=NodeDescription(hostname=request.hostname),
        data_path_address=request.data_path_address,
    )
    await store.commit([Put(node)])
    return Admitted(
        node=id,
        role=role,
        certificate=certificate,
        root_certificate=cluster.root_ca.certificate,
        cluster=cluster.id,
        managers=manager_addresses(store.state),
    )


def update(state: ClusterState, id: NodeId, version: int, spec: NodeSpec) -> list[Change]:
    node = _get(state, id)
    if node.meta.version != version:
        raise OutOfSequence("update out of sequence")
    if spec.role != node.spec.role:
        raise Unsupported(
            f"cannot update node {id}: changing its role from {node.spec.role} to {spec.role} is not supported yet"
        )
    return [Put(msgspec.structs.replace(node, spec=spec))]


def removal(state: ClusterState, id: NodeId, force: bool) -> list[Change]:
    node = _get(state, id)
    if node.spec.role == "manager":
        raise FailedPrecondition(
            f"node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
        )
    if node.status.state is not NodeState.DOWN and not force:
        raise FailedPrecondition(f"node {id} is not down and can't be removed")
    return [Remove("node", id, node.meta.version)]


def _get(state: ClusterState, id: NodeId) -> Node:
    node = state.nodes.get(id)
    if node is None:
        raise NotFound(f"node {id} not found")
    return node
