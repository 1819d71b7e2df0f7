"""The swarm's own settings, and its join tokens."""

from collections.abc import Callable

import msgspec

from weft.errors import InvalidArgument, OutOfSequence
from weft.manager.authority import Authority
from weft.manager.transaction import cluster_of
from weft.model.cluster import ClusterSpec
from weft.model.meta import SECOND
from weft.model.state import Change, ClusterState, Put
from weft.pki.tokens import SECRET_BYTES

SHORTEST_CERTIFICATE = 3600 * SECOND


def update(
    state: ClusterState, version: int, spec: ClusterSpec, rotate_worker: bool, rotate_manager: bool, authority: Authority,
    entropy: Callable[[int], bytes],
) -> list[Change]:  # fmt: skip
    """A rotated token is worthless at once; who has joined with it stays."""
    cluster = cluster_of(state)
    if cluster.meta.version != version:
        raise OutOfSequence("update out of sequence")
    validate(spec)

    def token(old: str, rotate: bool) -> str:
        return authority.make_token(cluster.root_ca.certificate, entropy(SECRET_BYTES)) if rotate else old

    tokens = msgspec.structs.replace(
        cluster.join_tokens,
        worker=token(cluster.join_tokens.worker, rotate_worker),
        manager=token(cluster.join_tokens.manager, rotate_manager),
    )
    return [Put(msgspec.structs.replace(cluster, spec=spec, join_tokens=tokens))]


def validate(spec: ClusterSpec) -> None:
    if spec.name != "default":
        raise InvalidArgument(f'swarm spec must be named "default", not "{spec.name}"')
    if spec.heartbeat <= 0:
        raise InvalidArgument(f"cannot update swarm: heartbeat period {spec.heartbeat} ns is not positive")
    if spec.certificate_expiry < SHORTEST_CERTIFICATE:
        raise InvalidArgument("cannot update swarm: the minimum certificate expiry time is 1h0m0s")
