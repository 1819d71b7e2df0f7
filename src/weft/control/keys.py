"""Data keys of the encrypted networks: made for the first such network, renewed by period or on
demand, discarded with the last.

Nodes accept the newest key but do not send with it yet. They send with it after the next rotation,
and still accept it after one more (`model/encryption.py`). So nodes that had a session with a
manager within the last period can all talk to each other.
"""

from collections.abc import Callable

import msgspec

from weft.errors import FailedPrecondition
from weft.model.cluster import Cluster
from weft.model.encryption import KEYS_KEPT, DataKey
from weft.model.meta import APART, SECOND, Nanoseconds, bounded
from weft.model.state import ClusterState, Decision, Put

SHORTEST_PERIOD: Nanoseconds = 10 * SECOND
"""Shortest time between two keys: every node must have received the newest key before any uses
it."""
_TAGS = 2**32


def reconcile(
    state: ClusterState, now: Nanoseconds, new_secret: Callable[[int], bytes]
) -> Decision:
    """`new_secret(n)` returns n random bytes."""
    cluster = state.cluster
    if cluster is None:
        return Decision()
    if not any(network.spec.encrypted for network in state.networks.values()):
        return Decision((_with(cluster, ()),) if cluster.data_keys else ())
    if not cluster.data_keys:
        return Decision((_with(cluster, (_key(cluster, now, new_secret),)),))
    period = max(cluster.spec.key_rotation, SHORTEST_PERIOD)
    due = bounded(cluster.data_keys[-1].created_at + period, period, now)
    if now < due:
        return Decision(wake_at=due)
    return Decision((_rotated(cluster, now, new_secret),))


def rotation(cluster: Cluster, now: Nanoseconds, new_secret: Callable[[int], bytes]) -> Put:
    """A rotation on demand. Raises `FailedPrecondition` if there is no key, or if some nodes may
    not know the newest key yet."""
    if not cluster.data_keys:
        raise FailedPrecondition("cannot rotate keys: there is no encrypted network")
    age = now - cluster.data_keys[-1].created_at
    if -APART <= age < SHORTEST_PERIOD:
        raise FailedPrecondition(
            f"cannot rotate keys: the last rotation was {age / SECOND:.0f} s ago, "
            f"at least {SHORTEST_PERIOD // SECOND} s must be between two"
        )
    return _rotated(cluster, now, new_secret)


def _rotated(cluster: Cluster, now: Nanoseconds, new_secret: Callable[[int], bytes]) -> Put:
    return _with(cluster, (*cluster.data_keys, _key(cluster, now, new_secret))[-KEYS_KEPT:])


def _key(cluster: Cluster, now: Nanoseconds, new_secret: Callable[[int], bytes]) -> DataKey:
    tag = cluster.next_key_tag % _TAGS
    return DataKey(tag=tag, secret=new_secret(cluster.spec.key_bits // 8), created_at=now)


def _with(cluster: Cluster, keys: tuple[DataKey, ...]) -> Put:
    used = keys[-1:] != cluster.data_keys[-1:] and bool(keys)
    return Put(
        msgspec.structs.replace(cluster, data_keys=keys, next_key_tag=cluster.next_key_tag + used)
    )
