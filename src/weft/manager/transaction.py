"""Reads, decides, commits, and repeats if another commit was faster: everything in a manager writes
this way.

A writer that has lost a race queues up with this manager's other losers. Where a commit takes
milliseconds, as on etcd, all but one of many concurrent writers would lose each time."""

from collections.abc import Callable, Sequence
from time import perf_counter

from weft.errors import OutOfSequence
from weft.manager import changelog
from weft.model.state import Change, ClusterState
from weft.store.base import Store

MAX_ATTEMPTS = 32
"""Each lost race means that another commit succeeded; this many in a row mean a decision that can
never be committed."""


async def transact(
    store: Store, decide: Callable[[ClusterState], Sequence[Change]], *, independent: bool = False
) -> int:
    """Commits what `decide` makes of the present state, and gives the revision. Errors of `decide`
    go to the caller, its own `OutOfSequence` included; only a commit that lost its race is tried
    again. `independent`: see `Store.commit`."""
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
    """None: another commit was faster."""
    changes = decide(store.state)
    if not changes:
        return store.state.revision
    lines = changelog.describe(store.state, changes)
    begun = perf_counter()
    try:
        revision = await store.commit(changes, independent=independent)
    except OutOfSequence:
        return None
    store.commit_seconds.add(perf_counter() - begun)
    changelog.write(lines)
    return revision
