"""The swarm's own settings, its join tokens, and the start of a root rotation
(`control/rotation.py` ends it)."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import msgspec

from weft.control.requests.sequence import check_sequence
from weft.errors import InvalidArgument
from weft.model.cluster import Cluster, ClusterSpec, RootCa, RootRotation
from weft.model.meta import SECOND, Nanoseconds
from weft.model.secret import Sealed
from weft.model.state import Change, ClusterState, Put, cluster_of
from weft.pki.tokens import SECRET_BYTES

SHORTEST_CERTIFICATE = 3600 * SECOND
SHORTEST_HEARTBEAT = SECOND // 10
"""Every node sends a heartbeat this often, and managers answer each one."""


class TokensAndRoots(Protocol):
    """The part of a certificate authority that these decisions need."""

    def make_token(self, root_certificate: str, secret: bytes) -> str:
        """`secret`: `tokens.SECRET_BYTES` random bytes."""
        ...

    def rotation(
        self,
        current: RootCa,
        brought: RootCa | None,
        now: Nanoseconds,
        entropy: Callable[[int], bytes],
    ) -> RootRotation:
        """The rotation from the current root to `brought`, or to a new root if that is None. Raises
        `InvalidArgument` if `brought` cannot be the root of a swarm."""
        ...


class Tools(NamedTuple):
    authority: TokensAndRoots
    now: Nanoseconds
    entropy: Callable[[int], bytes]
    open_root: Callable[[RootCa], RootCa]
    """Gives a root as the store has it with its key in clear; may raise `WeftError`."""


class Wanted(NamedTuple):
    spec: ClusterSpec
    rotate_worker: bool = False
    rotate_manager: bool = False
    root: RootCa | None = None
    """The new root, if the user brings one."""
    unlock_key: Sealed | None = None
    """The key for a spec with `auto_lock`: the present one or a new one."""


def update(state: ClusterState, version: int, wanted: Wanted, tools: Tools) -> list[Change]:
    """A rotated token becomes invalid at once; nodes that joined with it stay."""
    cluster, spec = cluster_of(state), wanted.spec
    check_sequence(cluster, version)
    validate(spec)

    def token(old: str, rotate: bool) -> str:
        return (
            tools.authority.make_token(cluster.root_ca.certificate, tools.entropy(SECRET_BYTES))
            if rotate
            else old
        )

    tokens = msgspec.structs.replace(
        cluster.join_tokens,
        worker=token(cluster.join_tokens.worker, wanted.rotate_worker),
        manager=token(cluster.join_tokens.manager, wanted.rotate_manager),
    )
    rotation = cluster.rotation
    if wanted.root is not None or spec.force_rotate != cluster.spec.force_rotate:
        rotation = _rotation(cluster, wanted.root, tools)
    follows = cluster.meta.version
    return [
        Put(
            msgspec.structs.replace(
                cluster,
                spec=spec,
                spec_follows=follows,
                join_tokens=tokens,
                rotation=rotation,
                unlock_key=wanted.unlock_key if spec.auto_lock else None,
            )
        )
    ]


def _rotation(cluster: Cluster, root: RootCa | None, tools: Tools) -> RootRotation | None:
    """Replaces a rotation under way: nodes with a certificate of its root get one of the new root.
    Bringing the present root ends the rotation."""
    current = tools.open_root(cluster.root_ca)
    rotation = tools.authority.rotation(current, root, tools.now, tools.entropy)
    if root is None:
        return rotation
    coming = cluster.rotation.root_ca if cluster.rotation is not None else cluster.root_ca
    if rotation.root_ca.certificate == coming.certificate:
        return cluster.rotation
    return rotation if rotation.root_ca.certificate != cluster.root_ca.certificate else None


def validate(spec: ClusterSpec) -> None:
    """Raises `InvalidArgument`."""
    if spec.name != "default":
        raise InvalidArgument(f'swarm spec must be named "default", not "{spec.name}"')
    if spec.heartbeat < SHORTEST_HEARTBEAT:
        raise InvalidArgument(
            f"invalid HeartbeatPeriod: {spec.heartbeat} ns: the minimum is {SHORTEST_HEARTBEAT} ns"
        )
    if spec.certificate_expiry < SHORTEST_CERTIFICATE:
        raise InvalidArgument(
            "invalid CAConfig.NodeCertExpiry: minimum certificate expiry time must be 1h0m0s"
        )
