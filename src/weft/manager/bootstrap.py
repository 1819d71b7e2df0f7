"""The first state of a new swarm: the cluster, its ingress network, and the node that founded it,
in one commit."""

from collections.abc import Callable
from ipaddress import IPv4Address

import msgspec

from weft.control.requests import cluster
from weft.control.requests.validation import LONGEST_PREFIX
from weft.errors import InvalidArgument, Unavailable
from weft.manager.authority import Authority
from weft.model.cluster import DEFAULT_POOL, VXLAN_PORT, Cluster, JoinTokens, RootCa
from weft.model.ids import SWARM_ID_BYTES, ClusterId, NetworkId, NodeId, swarm_id
from weft.model.membership import InitRequest
from weft.model.network import Network, NetworkSpec
from weft.model.node import Node, NodeDescription, NodeSpec
from weft.model.state import Put
from weft.pki.tokens import SECRET_BYTES
from weft.store.base import Store

INGRESS_NAME = "ingress"
DEFAULT_SUBNET_SIZE = 24
DATA_PATH_PORTS = range(1024, 49152)


class Founder(msgspec.Struct, frozen=True, kw_only=True):
    """The node that creates the swarm."""

    description: NodeDescription
    data_path_address: IPv4Address
    manager_address: str
    """`host:port` of its session listener, as other hosts reach it."""


async def create_swarm(
    store: Store,
    request: InitRequest,
    founder: Founder,
    root: RootCa,
    authority: Authority,
    entropy: Callable[[int], bytes],
    seal: Callable[[Cluster], Cluster] = lambda cluster: cluster,
) -> tuple[Cluster, Node]:
    """The cluster and the founder's node, as stored. `seal` makes the secrets in the cluster what
    the store is to have. Raises `InvalidArgument` for a request that makes no sense, `Unavailable`
    if the store already has a swarm."""
    validate(request)
    if store.state.cluster is not None:
        raise Unavailable(
            'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and'
            " join another one."
        )
    founded = Cluster(
        id=ClusterId(swarm_id(entropy(SWARM_ID_BYTES))),
        spec=request.spec,
        default_pool=request.default_pool or DEFAULT_POOL,
        subnet_size=request.subnet_size or DEFAULT_SUBNET_SIZE,
        data_path_port=request.data_path_port or VXLAN_PORT,
        root_ca=root,
        join_tokens=JoinTokens(
            worker=authority.make_token(root.certificate, entropy(SECRET_BYTES)),
            manager=authority.make_token(root.certificate, entropy(SECRET_BYTES)),
        ),
    )
    ingress = Network(
        id=NetworkId(swarm_id(entropy(SWARM_ID_BYTES))),
        spec=NetworkSpec(name=INGRESS_NAME, ingress=True),
    )
    node = Node(
        id=NodeId(swarm_id(entropy(SWARM_ID_BYTES))),
        spec=NodeSpec(role="manager", availability=request.availability),
        description=founder.description,
        data_path_address=founder.data_path_address,
        manager_address=founder.manager_address,
    )
    await store.commit([Put(seal(founded)), Put(ingress), Put(node)])
    return store.state.tables["cluster"][founded.id], store.state.nodes[node.id]  # type: ignore[return-value]


def validate(request: InitRequest) -> None:
    """Checks a request; only this function knows the limits of a new swarm. Raises
    `InvalidArgument`."""
    cluster.validate(request.spec)
    if request.data_path_port and request.data_path_port not in DATA_PATH_PORTS:
        raise InvalidArgument(
            f"cannot create swarm: data path port {request.data_path_port} is not in the range"
            " 1024-49151"
        )
    size, pools = request.subnet_size or DEFAULT_SUBNET_SIZE, request.default_pool or DEFAULT_POOL
    if size > LONGEST_PREFIX:
        raise InvalidArgument(
            f"cannot create swarm: subnet size {size} is longer than {LONGEST_PREFIX} bits"
        )
    for index, pool in enumerate(pools):
        if pool.prefixlen > size:
            raise InvalidArgument(
                f"cannot create swarm: address pool {pool} is smaller than one subnet of /{size}"
            )
        if not pool.prefixlen or pool.is_multicast or pool.is_loopback:
            raise InvalidArgument(
                f"cannot create swarm: address pool {pool} is not a range for hosts"
            )
        for other in pools[:index]:
            if pool.overlaps(other):
                raise InvalidArgument(
                    f"cannot create swarm: address pool {pool} overlaps with {other}"
                )
