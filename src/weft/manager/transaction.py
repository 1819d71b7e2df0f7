"""Read, decide, commit, and again when somebody else was faster: how everything in a manager
writes.

Who was too slow once queues up with the others of this manager that were: where a commit takes
milliseconds, as on etcd, all of many that write at once would lose against one each time.
"""

from collections.abc import Callable, Sequence

from weft.errors import OutOfSequence
from weft.manager import changelog
from weft.model.state import Change, ClusterState
from weft.store.base import Store

MAX_ATTEMPTS = 32
"""Each lost race means that somebody else's commit succeeded; so many in a row mean a decision that
can never be committed."""


async def transact(
    store: Store, decide: Callable[[ClusterState], Sequence[Change]], *, independent: bool = False
) -> int:
    """Commits what `decide` makes of the present state and gives the revision. What `decide` raises
    is the caller's, an `OutOfSequence` of its own included; only a commit that lost its race is
    tried again. `independent`: see `Store.commit`."""
    revision = await _attempt(store, decide, independent)
    if revision is not None:
        return revision
    async with store.turn:
        for _ in range(MAX_ATTEMPTS - 1):
            revision = await _attempt(store, decide, independent)
            if revision is not None:
                return revision
    raise OutOfSequence("update out of sequence")


async def _attempt(
    store: Store, decide: Callable[[ClusterState], Sequence[Change]], independent: bool
) -> int | None:
    """None: somebody else was faster."""
    changes = decide(store.state)
    if not changes:
        return store.state.revision
    lines = changelog.describe(store.state, changes)
    try:
        revision = await store.commit(changes, independent=independent)
    except OutOfSequence:
        return None
    changelog.write(lines)
    return revision
