"""The secrets in the cluster object, as the store has them: the keys of the certificate authority
and the join tokens, each sealed under the swarm's sealing key (`sealing.py`).

A sealed secret is text that stands in the place of the clear one, so a manager that does not know
about it keeps it as it is. A clear one is read too: earlier versions stored these, and the leader
seals what it finds clear. Each is bound to its place: a root's key to the root's certificate, a
token to the swarm and the role.
"""

import base64
import hashlib
from collections.abc import Callable, Iterator

import msgspec

from weft.errors import OperationFailed, Unavailable
from weft.model import codec
from weft.model.cluster import Cluster, JoinTokens, RootCa
from weft.model.secret import Sealed
from weft.pki import sealing
from weft.pki.sealing import NONCE_BYTES, SealingKey

PREFIX = "sealed:"
"""Begins no PEM and no token."""

FindKey = Callable[[str], SealingKey | None]
"""The sealing key with that id, if it is here."""
Seal = Callable[[str, str], str]
"""(context, text) -> the text to store."""


def is_sealed(text: str) -> bool:
    return text.startswith(PREFIX)


def has_clear(cluster: Cluster) -> bool:
    return any(text and not is_sealed(text) for text in _texts(cluster))


def has_sealed(cluster: Cluster) -> bool:
    return any(map(is_sealed, _texts(cluster)))


def sealed(cluster: Cluster, key: SealingKey, entropy: Callable[[int], bytes]) -> Cluster:
    """The cluster with all that is clear sealed."""

    def seal(context: str, text: str) -> str:
        if not text or is_sealed(text):
            return text
        found = sealing.seal(key, context, text.encode(), entropy(NONCE_BYTES))
        return PREFIX + base64.b64encode(codec.encode(found)).decode()

    rotation = cluster.rotation
    if rotation is not None:
        root = _sealed_root(rotation.root_ca, seal)
        rotation = msgspec.structs.replace(rotation, root_ca=root)
    return msgspec.structs.replace(
        cluster,
        root_ca=_sealed_root(cluster.root_ca, seal),
        rotation=rotation,
        join_tokens=JoinTokens(
            worker=seal(_token(cluster, "worker"), cluster.join_tokens.worker),
            manager=seal(_token(cluster, "manager"), cluster.join_tokens.manager),
        ),
    )


def opened_root(root: RootCa, find: FindKey) -> RootCa:
    """The root with its key in clear. Raises `Unavailable` if the sealing key is not here,
    `OperationFailed` if the store was tampered with."""
    return RootCa(root.certificate, _opened(_root(root), root.key, find))


def opened_tokens(cluster: Cluster, find: FindKey) -> JoinTokens:
    """The tokens in clear. Raises as `opened_root`."""
    tokens = cluster.join_tokens
    return JoinTokens(
        worker=_opened(_token(cluster, "worker"), tokens.worker, find),
        manager=_opened(_token(cluster, "manager"), tokens.manager, find),
    )


def _texts(cluster: Cluster) -> Iterator[str]:
    yield cluster.root_ca.key
    if cluster.rotation is not None:
        yield cluster.rotation.root_ca.key
    yield cluster.join_tokens.worker
    yield cluster.join_tokens.manager


def _sealed_root(root: RootCa, seal: Seal) -> RootCa:
    return RootCa(root.certificate, seal(_root(root), root.key))


def _opened(context: str, text: str, find: FindKey) -> str:
    if not is_sealed(text):
        return text
    try:
        found = codec.decode(base64.b64decode(text.removeprefix(PREFIX), validate=True), Sealed)
    except (ValueError, msgspec.MsgspecError) as error:
        raise OperationFailed(f"cannot open the {context}: it is damaged in the store") from error
    key = find(found.key)
    if key is None:
        raise Unavailable(f"cannot open the {context}: this manager does not have the sealing key")
    try:
        return sealing.opened(key, context, found).decode()
    except OperationFailed:
        raise OperationFailed(f"cannot open the {context}: it was changed in the store") from None


def _root(root: RootCa) -> str:
    digest = hashlib.sha256(root.certificate.encode()).hexdigest()[:32]
    return f"key of the certificate authority {digest}"


def _token(cluster: Cluster, role: str) -> str:
    return f"join token of {role}s of {cluster.id}"
