"""Admits hosts that join with a token, and caches the addresses of the nodes, which are served
before strangers."""

import asyncio
from collections.abc import Callable

from weft.errors import FailedPrecondition, Forbidden
from weft.manager.authority import Authority
from weft.manager.certificates import Certificates
from weft.manager.dispatch import manager_addresses
from weft.manager.transaction import transact
from weft.model.cluster import Cluster, JoinTokens
from weft.model.ids import SWARM_ID_BYTES, NodeId, swarm_id
from weft.model.node import Node, NodeDescription, NodeSpec
from weft.model.state import Change, ClusterState, Put, cluster_of
from weft.session.base import AdmissionRequest, Admitted
from weft.store.base import Store

FRESH = 1.0
"""Seconds for which the nodes' addresses are cached: each connection of a stranger asks for
them."""
INVALID_TOKEN = (
    "A valid join token is necessary to join this cluster: the one that was given may have been"
    " rotated"
)
"""Docker Swarm's text, and the likely cause."""


class Addresses:
    """IP addresses of the nodes: the sources of their sessions, and their data path addresses."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._found: frozenset[str] = frozenset()
        self._until = 0.0

    def current(self) -> frozenset[str]:
        """The addresses, at most `FRESH` seconds old."""
        now = asyncio.get_running_loop().time()
        if now >= self._until:
            nodes = self._store.state.nodes.values()
            self._found = frozenset(
                a for n in nodes for a in (n.status.address, str(n.data_path_address))
            )
            self._until = now + FRESH
        return self._found


async def admit(
    store: Store,
    opened_tokens: Callable[[Cluster], JoinTokens],
    authority: Authority,
    certificates: Certificates,
    request: AdmissionRequest,
    entropy: Callable[[int], bytes],
    obstacle: str = "",
) -> Admitted:
    """See `session.base.Manager.admit`. A request that arrives twice, because the answer was lost
    or because somebody replays the request, makes one node: its certificate is useless without the
    private key. The certificate is made before the node is written, so a request that fails leaves
    nothing behind. `opened_tokens`: the join tokens in clear."""
    role = authority.role_of(request.token, opened_tokens(cluster_of(store.state)))
    if role is None:
        raise Forbidden(INVALID_TOKEN)
    if role == "manager" and obstacle:
        raise FailedPrecondition(f"cannot join swarm as a manager: {obstacle}")
    fresh = Node(
        id=NodeId(swarm_id(entropy(SWARM_ID_BYTES))),
        spec=NodeSpec(role=role, availability=request.availability),
        description=NodeDescription(hostname=request.hostname),
        data_path_address=request.data_path_address,
        joined_with=authority.key_digest(request.csr),
    )
    issued: tuple[Node, str] = fresh, ""

    def decide(state: ClusterState) -> list[Change]:
        nonlocal issued
        node = _joined_before(state, fresh.joined_with) or fresh
        chain, changes = certificates.issue(state, node, request.csr, request.advertise_address)
        issued = node, chain
        return changes or ([Put(fresh)] if node is fresh else [])

    await transact(store, decide)
    node, chain = issued
    cluster = cluster_of(store.state)
    return Admitted(
        node=node.id,
        role=node.role,
        certificate=chain,
        root_certificate=cluster.root_ca.certificate,
        cluster=cluster.id,
        managers=manager_addresses(store.state),
    )


def _joined_before(state: ClusterState, key: str) -> Node | None:
    return next((node for node in state.nodes.values() if key and node.joined_with == key), None)
