"""Read, decide, commit, and again when somebody else was faster: how everything in a manager writes."""

from collections.abc import Callable, Sequence

from weft.errors import OutOfSequence, Unavailable
from weft.model.cluster import Cluster
from weft.model.state import Change, ClusterState
from weft.store.base import Store

MAX_ATTEMPTS = 16
"""Each lost race means that somebody else's commit succeeded; so many in a row mean a decision that can never be committed."""


async def transact(store: Store, decide: Callable[[ClusterState], Sequence[Change]], *, independent: bool = False) -> int:
    """Commits what `decide` makes of the present state and gives the revision. What `decide` raises is the caller's, an
    `OutOfSequence` of its own included; only a commit that lost its race is tried again. `independent`: see `Store.commit`."""
    for _ in range(MAX_ATTEMPTS):
        changes = decide(store.state)
        if not changes:
            return store.state.revision
        try:
            return await store.commit(changes, independent=independent)
        except OutOfSequence:
            continue
    raise OutOfSequence("update out of sequence")


def cluster_of(state: ClusterState) -> Cluster:
    """Raises `Unavailable` if there is none yet."""
    if state.cluster is None:
        raise Unavailable("This node is not part of a swarm")
    return state.cluster
