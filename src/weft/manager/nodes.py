"""Nodes as users and joining hosts ask for them: admitted with a token, changed, removed."""

from collections.abc import Callable

import msgspec

from weft.cluster.base import AdmissionRequest, Admitted
from weft.errors import FailedPrecondition, Forbidden, NotFound, OutOfSequence
from weft.manager.authority import Authority
from weft.manager.dispatch import manager_addresses
from weft.manager.transaction import cluster_of
from weft.model.ids import SWARM_ID_BYTES, NodeId, swarm_id
from weft.model.meta import Nanoseconds
from weft.model.node import Node, NodeDescription, NodeSpec, NodeState
from weft.model.state import Change, ClusterState, Put, Remove
from weft.store.base import Standing, Store

SERIAL_BYTES = 16
"""Of a certificate: X.509 allows 20 (RFC 5280 section 4.1.2.2)."""


async def admit(
    store: Store, authority: Authority, request: AdmissionRequest, now: Nanoseconds, entropy: Callable[[int], bytes],
    obstacle: str = "",
) -> Admitted:  # fmt: skip
    """See `cluster.base.Manager.admit`. The certificate is made before the node is written: a request that cannot be served
    leaves nothing behind."""
    cluster = cluster_of(store.state)
    role = authority.role_of(request.token, cluster.join_tokens)
    if role is None:
        raise Forbidden("cannot join swarm: the join token is not valid; it may have been rotated")
    if role == "manager" and obstacle:
        raise FailedPrecondition(f"cannot join swarm as a manager: {obstacle}")
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


def update(
    state: ClusterState, id: NodeId, version: int, spec: NodeSpec, standing: Standing, obstacle: str = ""
) -> list[Change]:
    """A new role is a wish: the node gets its certificate and its part of the store, or loses them, in the next seconds."""
    node = _get(state, id)
    if node.meta.version != version:
        raise OutOfSequence("update out of sequence")
    if spec.role == "worker" and node.spec.role == "manager":
        _check_demotion(state, node, standing.present)
    if spec.role == "manager" and node.spec.role == "worker" and obstacle:
        raise FailedPrecondition(f"cannot promote node {id}: {obstacle}")
    return [Put(msgspec.structs.replace(node, spec=spec))]


def removal(state: ClusterState, id: NodeId, force: bool) -> list[Change]:
    node = _get(state, id)
    if node.role == "manager" or node.spec.role == "manager":
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


def managers(state: ClusterState) -> list[Node]:
    """Those that are, or are to be."""
    return [node for node in state.nodes.values() if node.spec.role == "manager"]


def _check_demotion(state: ClusterState, node: Node, present: frozenset[NodeId]) -> None:
    """Raises `FailedPrecondition` if the others could not go on without it."""
    others = [other for other in managers(state) if other.id != node.id and other.manager_address]
    if not others:
        raise FailedPrecondition(
            "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm"
        )  # fmt: skip
    reachable = sum(other.id in present for other in others)
    if 2 * reachable <= len(others):
        raise FailedPrecondition(
            "rpc error: code = FailedPrecondition desc = can't remove member from the raft: this would result in a loss of quorum"
        )


def arrival(state: ClusterState, id: NodeId, address: str) -> list[Change]:
    """The node serves as a manager at `address` (`host:port`)."""
    node = _get(state, id)
    return [] if node.manager_address == address else [Put(msgspec.structs.replace(node, manager_address=address))]


def departure(state: ClusterState, id: NodeId) -> list[Change]:
    """It does no more."""
    node = state.nodes.get(id)
    if node is None or not (node.manager_address or node.store_peer):
        return []
    return [Put(msgspec.structs.replace(node, manager_address="", store_peer=""))]
