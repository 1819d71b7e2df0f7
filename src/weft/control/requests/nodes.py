"""Requests about nodes: update, promotion, demotion and removal; also the other ways in which a
node stops being a manager."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from weft.control import revocation
from weft.control.requests.sequence import check_sequence
from weft.errors import FailedPrecondition, NotFound
from weft.model.ids import NodeId
from weft.model.leadership_status import LeadershipStatus
from weft.model.meta import Nanoseconds
from weft.model.node import Node, NodeSpec, NodeState
from weft.model.state import Change, ClusterState, Put, Remove, cluster_of

HOST_STOPS = "its host is being shut down"
"""The message of a node that has said so. Its host may answer for minutes, as long as its containers
take to end, and is not to be believed meanwhile."""
_ENDS: Mapping[str, tuple[NodeState, str]] = {
    "left": (NodeState.DOWN, "the node has left the swarm"),
    "stopping": (NodeState.DISCONNECTED, HOST_STOPS),
}
"""The state of a node after its farewell."""


def update(
    state: ClusterState,
    id: NodeId,
    version: int,
    spec: NodeSpec,
    leadership_status: LeadershipStatus,
    obstacle: str = "",
) -> list[Change]:
    """A new role is only requested here: in the next seconds the node gets a manager's certificate
    and an etcd member, or loses them. `version`: of the node as the user has read it. Anything but
    the spec may have changed since then, as a node's status changes at any time."""
    node = _get(state, id)
    check_sequence(node, version)
    if spec.role == "worker" and node.spec.role == "manager":
        _check_demotion(state, node, leadership_status.present)
    if spec.role == "manager" and node.spec.role == "worker" and obstacle:
        raise FailedPrecondition(f"cannot promote node {id}: {obstacle}")
    after = _with_spec(node, spec)
    return revocation.revoking(state, after) if spec.role == "worker" else [Put(after)]


def _with_spec(node: Node, spec: NodeSpec) -> Node:
    return msgspec.structs.replace(node, spec=spec, spec_follows=node.meta.version)


def removal(state: ClusterState, id: NodeId, force: bool) -> list[Change]:
    node = _get(state, id)
    if node.role == "manager" or node.spec.role == "manager":
        raise FailedPrecondition(
            f"node {id} is a cluster manager and is a member of the raft cluster. It must be"
            " demoted to worker before removal"
        )
    if node.status.state is not NodeState.DOWN and not force:
        raise FailedPrecondition(f"node {id} is not down and can't be removed")
    _, *revoked = revocation.revoking(state, node)
    return [Remove("node", id, node.meta.version), *revoked]


def _get(state: ClusterState, id: NodeId) -> Node:
    node = state.nodes.get(id)
    if node is None:
        raise NotFound(f"node {id} not found")
    return node


def farewell(
    state: ClusterState, id: NodeId, said: Literal["leaving", "left", "stopping"], now: Nanoseconds
) -> list[Change]:
    """What a node says of itself before it ends (`session.messages.Farewell`).

    A node that leaves is drained first: its tasks get replacements, no node sends them new
    connections, and the node ends them as it ends all tasks. It is DOWN when it has done so."""
    node = state.nodes.get(id)
    if node is None:
        return []
    if said == "leaving":
        drained = msgspec.structs.replace(node.spec, availability="drain")
        return [Put(_with_spec(node, drained))] if drained != node.spec else []
    ends, message = _ENDS[said]
    status = msgspec.structs.replace(node.status, state=ends, message=message, since=now)
    if ends is NodeState.DOWN:
        status = msgspec.structs.replace(status, manager=None)
    return [Put(msgspec.structs.replace(node, status=status))]


def managers(state: ClusterState) -> list[Node]:
    """The nodes that are, or are to become, managers."""
    return [node for node in state.nodes.values() if node.spec.role == "manager"]


def serving_beside(state: ClusterState, id: NodeId) -> list[Node]:
    """The managers other than this one that serve and are to remain managers."""
    return [node for node in managers(state) if node.id != id and node.manager_address]


def _check_demotion(state: ClusterState, node: Node, present: frozenset[NodeId]) -> None:
    """Raises `FailedPrecondition` if the other managers could not go on without this one."""
    others = serving_beside(state, node.id)
    if not others:
        raise FailedPrecondition(
            "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of"
            " the swarm"
        )
    reachable = sum(other.id in present for other in others)
    if 2 * reachable <= len(others):
        raise FailedPrecondition(
            "rpc error: code = FailedPrecondition desc = can't remove member from the raft: this"
            " would result in a loss of quorum"
        )


def arrival(state: ClusterState, id: NodeId, address: str) -> list[Change]:
    """The node serves as a manager at `address` (`host:port`)."""
    node = _get(state, id)
    return (
        []
        if node.manager_address == address
        else [Put(msgspec.structs.replace(node, manager_address=address))]
    )


def departure(state: ClusterState, id: NodeId) -> list[Change]:
    """The node no longer serves as a manager."""
    node = state.nodes.get(id)
    if node is None or not (node.manager_address or node.store_peer):
        return []
    return [Put(msgspec.structs.replace(node, manager_address="", store_peer=""))]


def forced_beginning(state: ClusterState, own: NodeId) -> list[Change]:
    """From now on, only the node `own` is a manager."""
    others = [
        node
        for node in state.nodes.values()
        if node.id != own and "manager" in (node.role, node.spec.role)
    ]
    cluster = revocation.revoked(cluster_of(state), others)
    anew = Put(msgspec.structs.replace(cluster, epoch=cluster.epoch + 1))
    return [anew, *(Put(revocation.without(_resigned(node))) for node in others)]


def resignation(state: ClusterState, id: NodeId) -> list[Change]:
    """A demotion that no manager has to carry out."""
    return revocation.revoking(state, _resigned(_get(state, id)))


def disowning(state: ClusterState, id: NodeId) -> list[Change]:
    """Revokes the manager's certificates before its etcd member is removed."""
    node = state.nodes.get(id)
    return (
        revocation.revoking(state, node) if node is not None and node.manager_certificates else []
    )


def _resigned(node: Node) -> Node:
    worker = _with_spec(node, msgspec.structs.replace(node.spec, role="worker"))
    return msgspec.structs.replace(worker, manager_address="", store_peer="")
