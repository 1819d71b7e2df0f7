"""The store of several managers: etcd has the truth, and each manager has all of it in memory, kept
up to date by a watch.

    1. check    versions and names, against the state in memory
    2. send     one transaction: compares of every version, of the names, of the schema and, unless
                independent, of the guard
    3. wait     until the watch has brought the commit. Only the watch changes the state, so every
                manager sees the same commits in the same order, its own included

The compares come from the state that the caller saw: there is no await before the sending. Of two
commits of one process on one state that are not independent, the second to arrive fails, like one
of another manager.

A store that does not answer when opened can be shown as it was kept (`store/kept.py`). Nothing can
be committed then, and the kept state is replaced as soon as the store itself was read.

If an answer is lost, nobody can tell whether the transaction was carried out. It is not repeated: a
repetition might undo a later commit of somebody else. A commit under way goes on when its caller is
cancelled."""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterable, Iterator, Sequence
from contextlib import aclosing, suppress
from itertools import groupby
from typing import Any

from weft.errors import Damaged, OperationFailed, OutOfSequence, Unavailable, WeftError
from weft.model.cluster import Cluster
from weft.model.ids import ClusterId
from weft.model.state import Change, ClusterState, Kind, Object, kind_of
from weft.store.engine import Clock, EventSubscription, Readers
from weft.store.etcd.base import NO_MAJORITY, Changed, Compacted, Compare, Kv, Read, Write, after
from weft.store.etcd.load import Loaded, load
from weft.store.etcd.rows import PREFIX, Keys, Transaction, from_value, transaction
from weft.store.kept import Kept
from weft.store.schema import CURRENT, Schema
from weft.system.tally import Histogram

log = logging.getLogger(__name__)

# All in proportion to the election timeout (`base.Pace`).
_CHECK_EVERY = 1.0
_CHECK = 2.0
"""Seconds. A read that a quorum confirms takes no longer, unless the member is very busy."""
_SILENCE = 4.0
"""Seconds without any sign of a quorum, after which there is none."""
_IN_FLIGHT = 64
"""Transactions at once; each has a connection. The others wait here, outside of etcd's timeout."""
_CATCH_UP = 5.0
"""Seconds. The watch brings a commit within this time, or is considered broken."""
_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts to watch again."""


def _check(objects: Iterable[Object], cluster: ClusterId | None) -> None:
    """Raises `Damaged` if this is not the state of that swarm."""
    found = next((obj.id for obj in objects if isinstance(obj, Cluster)), None)
    if cluster is not None and found != cluster:
        whose = "no swarm" if found is None else f"swarm {found}"
        raise Damaged(f"it has the state of {whose}")


class _Slow(Unavailable):
    """There was no answer in time. The quorum may still exist."""


class EtcdStore:
    """`store.base.Store`."""

    def __init__(
        self,
        kv: Kv,
        clock: Clock,
        keys: Keys,
        schema: Schema,
        loaded: Loaded,
        cluster: ClusterId | None = None,
        is_kept: bool = False,
    ) -> None:
        self._kv, self._clock, self._keys, self._schema = kv, clock, keys, schema
        self._cluster = cluster
        self._is_kept = is_kept
        """`loaded` is the kept state; nothing was read from the store yet."""
        self._base = loaded.base
        self._state = ClusterState(loaded.objects, loaded.base + loaded.last)
        self._seen = loaded.revision
        """The etcd revision that the watch has reached."""
        self._guard, self._schema_written = loaded.guard, loaded.schema
        self._readers = Readers()
        self.turn = asyncio.Lock()
        self.commit_seconds = Histogram()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watching, self._has_majority = False, False
        self._sign = asyncio.get_running_loop().time()
        """When there was the last sign of a quorum."""
        self._turns = asyncio.Semaphore(_IN_FLIGHT)
        self._heard = asyncio.Event()
        """Set when a watch was established for the first time."""
        self._fault: OperationFailed | None = None
        self._watcher = self._spawn(self._follow())
        self._spawn(self._check_majority())

    @classmethod
    async def open(
        cls,
        kv: Kv,
        clock: Clock,
        prefix: str = PREFIX,
        schema: Schema = CURRENT,
        cluster: ClusterId | None = None,
    ) -> "EtcdStore":
        """Loads everything, and upgrades an older store. Without quorum, the result is what the
        local member knows. The store owns `kv` from then on. `cluster`: the swarm whose state must
        be in the store. Raises `NotFound` if there is no store, `Damaged` if it is not that
        swarm's, `OperationFailed` as `SqliteStore.open` does, `Unavailable`."""
        keys = Keys(prefix)
        try:
            loaded = await load(kv, keys, schema)
        except OperationFailed as error:
            raise OperationFailed(f"cannot open store {prefix}: {error}") from error
        _check(loaded.objects, cluster)
        store = cls(kv, clock, keys, schema, loaded, cluster)
        with suppress(WeftError, TimeoutError):
            await store._confirm()
            async with asyncio.timeout(kv.pace.of(_CHECK)):
                await store._heard.wait()
        return store

    @classmethod
    def show(
        cls,
        kv: Kv,
        clock: Clock,
        kept: Kept,
        cluster: ClusterId | None = None,
        prefix: str = PREFIX,
        schema: Schema = CURRENT,
    ) -> "EtcdStore":
        """A store that shows the kept state until etcd answers. The store owns `kv` from then on.
        Raises `Damaged` if the kept state is not the swarm's."""
        _check(kept.objects, cluster)
        loaded = Loaded(0, kept.revision, 0, 0, 0, kept.objects)
        return cls(kv, clock, Keys(prefix), schema, loaded, cluster, is_kept=True)

    @property
    def state(self) -> ClusterState:
        return self._state

    @property
    def is_healthy(self) -> bool:
        return self._watching and self._has_majority and self._fault is None

    async def commit(self, changes: Sequence[Change], *, independent: bool = False) -> int:
        """See `Store.commit`."""
        if self._fault is not None:
            raise self._fault
        if self._is_kept:
            raise Unavailable(NO_MAJORITY)
        self._state.check(changes)
        if not changes:
            return self._state.revision
        wanted = transaction(self._keys, self._state, changes, self._base, self._clock())
        compares, writes = (
            [*wanted.compares, Compare(self._keys.schema, self._schema_written)],
            [*wanted.writes],
        )
        if writes and not independent:
            compares.append(Compare(self._keys.guard, self._guard))
            writes.append(Write(self._keys.guard))
        task = self._spawn(self._carry_out(Transaction(tuple(compares), tuple(writes)), changes))
        return await asyncio.shield(task)

    async def sync(self) -> None:
        """See `Store.sync`."""
        if self._fault is not None:
            raise self._fault
        await self._confirm()

    def subscribe(self, kinds: Collection[Kind]) -> EventSubscription:
        return self._readers.subscribe(kinds)

    async def close(self) -> None:
        """Wakes every reader with `Unavailable`. Transactions that were sent may still be carried
        out."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._readers.close()
        self._watching = False
        await self._kv.close()

    # --- writing

    async def _carry_out(self, wanted: Transaction, changes: Sequence[Change]) -> int:
        keys = self._keys
        async with self._turns:
            answer = await self._kv.txn(
                wanted.compares, wanted.writes, [Read(keys.last), Read(keys.schema)]
            )
        self._sign = self._now()
        if answer.succeeded:
            if not wanted.writes:
                return self._state.revision
            await self._reach(answer.revision)
            return self._base + answer.revision
        last, schema = answer.reads
        await self._reach(last[0].mod_revision if last else 0)
        if schema and schema[0].mod_revision != self._schema_written:
            raise OperationFailed(
                "cannot commit: a newer version of this program has taken over the store"
            )
        self._state.check(changes)  # raises the precise error: a name, or a version
        raise OutOfSequence("update out of sequence")

    async def _reach(self, revision: int) -> None:
        """Waits until the state has that revision. Raises `Unavailable` if that takes too long: the
        commit is made nevertheless."""
        if self._seen >= revision:
            return
        reached = asyncio.get_running_loop().create_future()
        self._waiting.append((revision, reached))
        try:
            async with asyncio.timeout(self._kv.pace.of(_CATCH_UP)):
                await reached
        except TimeoutError:
            raise Unavailable(NO_MAJORITY) from None
        finally:
            self._waiting = [each for each in self._waiting if each[1] is not reached]

    # --- following

    async def _follow(self) -> None:
        attempt = 0
        while self._fault is None:
            if self._is_kept:
                await self._load_anew()
                continue
            try:
                async with aclosing(
                    self._kv.watch(self._keys.prefix, after(self._keys.prefix), self._seen + 1)
                ) as batches:
                    async for batch in batches:
                        self._watching, attempt = True, 0
                        self._heard.set()
                        self._apply(batch.changes)
            except Compacted:
                self._watching = False
                await self._load_anew()
                continue
            except Unavailable as error:
                level = logging.DEBUG if attempt else logging.WARNING
                log.log(level, "store.watch.broken revision=%d cause=%s", self._seen, error)
            except OperationFailed as error:
                self._fail(error)
            finally:
                self._watching = False
            await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
            attempt += 1

    def _apply(self, changes: Iterable[Changed]) -> None:
        for revision, group in groupby(changes, key=lambda change: change.mod_revision):
            self._apply_one(revision, list(group))

    def _apply_one(self, revision: int, changes: Sequence[Changed]) -> None:
        """Applies all that one transaction wrote."""
        keys, version = self._keys, self._base + revision
        put, removed, is_commit = [], [], False
        for change in changes:
            if change.key.startswith(keys.objects):
                kind, id = keys.parse(change.key)
                if change.value is None:
                    removed.append((kind, id))
                else:
                    put.append(from_value(kind, id, change.value, version))
            elif change.key == keys.schema and change.value is not None:
                self._schema.check(int(change.value.rpartition(b">")[2]))
                self._schema_written = revision
            elif change.key == keys.guard:
                self._guard = revision
            is_commit |= change.key == keys.last
        self._seen, self._sign = revision, self._now()
        if is_commit or put or removed:
            self._readers.offer(self._state.adopt(version, put, removed))
        self._wake()

    async def _load_anew(self) -> None:
        """Loads everything, because the watch missed history that was compacted, or because nothing
        was read yet. Subscribers get the difference."""
        try:
            loaded = await load(self._kv, self._keys, self._schema)
            _check(loaded.objects, self._cluster)
            if loaded.revision >= self._seen:
                self._take_over(loaded)
                return
            log.warning("store.load.behind revision=%d seen=%d", loaded.revision, self._seen)
        except Unavailable as error:
            level = logging.DEBUG if self._is_kept else logging.WARNING
            log.log(level, "store.load.failed cause=%s", error)
        except WeftError as error:
            self._fail(error)
        await asyncio.sleep(_PAUSES[-1])

    def _take_over(self, loaded: Loaded) -> None:
        present: set[tuple[Kind, str]] = {
            (kind, id) for kind, table in self._state.tables.items() for id in table
        }
        there: set[tuple[Kind, str]] = {(kind_of(obj), obj.id) for obj in loaded.objects}
        gone = present - there
        if self._is_kept:
            gone.update(self._mistaken(loaded))
            self._is_kept = False
        events = self._state.adopt(loaded.base + loaded.last, loaded.objects, sorted(gone))
        self._base, self._seen = loaded.base, loaded.revision
        self._guard, self._schema_written = loaded.guard, loaded.schema
        log.info("store.loaded revision=%d events=%d", self._state.revision, len(events))
        self._readers.offer(events)
        self._wake()

    def _mistaken(self, loaded: Loaded) -> Iterator[tuple[Kind, str]]:
        """Kept objects of an abandoned history, as when a backup was restored: they differ from
        loaded objects of the same version."""
        for obj in loaded.objects:
            kind = kind_of(obj)
            kept = self._state.tables[kind].get(obj.id)
            if kept is not None and kept.meta.version == obj.meta.version and kept != obj:
                yield kind, obj.id

    def _wake(self) -> None:
        for revision, reached in self._waiting:
            if revision <= self._seen and not reached.done():
                reached.set_result(None)

    def _fail(self, error: WeftError) -> None:
        """Stops following etcd: the state stays readable, and grows old."""
        log.error("store.failed revision=%d cause=%s", self._seen, error)
        self._fault = OperationFailed(f"cannot follow the store: {error}")

    async def _check_majority(self) -> None:
        while self._fault is None:
            try:
                await self._confirm()
            except _Slow:
                if self._now() - self._sign > self._kv.pace.of(_SILENCE):
                    self._lose_majority("no answer")
            except WeftError as error:
                self._lose_majority(str(error))
            await asyncio.sleep(self._kv.pace.of(_CHECK_EVERY))

    def _lose_majority(self, cause: str) -> None:
        if self._has_majority:
            log.warning("store.majority.lost revision=%d cause=%s", self._state.revision, cause)
        self._has_majority = False

    async def _confirm(self) -> None:
        """Confirms that there is a quorum, and that this store has seen what the quorum knows.
        Restarts a watch that should have brought it by now."""
        try:
            async with asyncio.timeout(self._kv.pace.of(_CHECK)):
                found = await self._kv.range(self._keys.last)
        except TimeoutError:
            raise _Slow(NO_MAJORITY) from None
        try:
            await self._reach(found.pairs[0].mod_revision if found.pairs else 0)
        except Unavailable:
            self._watcher.cancel()
            self._watcher = self._spawn(self._follow())
            raise
        if not self._has_majority:
            log.info("store.majority.there revision=%d", self._state.revision)
        self._has_majority, self._sign = True, self._now()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone
