"""The keys of a fake etcd: revisions, transactions, history and compaction."""

from bisect import bisect_left, insort
from collections.abc import Sequence

from weft.errors import OperationFailed
from weft.store.etcd.base import (
    Answer,
    Changed,
    Compare,
    Delete,
    KeyValue,
    Operation,
    Write,
)


class Keyspace:
    """All versions of all keys."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.log: list[tuple[int, tuple[Changed, ...]]] = []
        self._keys: list[str] = []
        self._versions: dict[str, list[tuple[int, KeyValue | None]]] = {}
        """By key: (revision, the value from that revision on)."""

    def get(self, key: str, revision: int = 0) -> KeyValue | None:
        versions = self._versions.get(key, ())
        if not revision:
            return versions[-1][1] if versions else None
        return next((pair for written, pair in reversed(versions) if written <= revision), None)

    def range(self, key: str, end: str, revision: int = 0) -> tuple[KeyValue, ...]:
        keys = (
            self._keys[bisect_left(self._keys, key) : bisect_left(self._keys, end)]
            if end
            else [key]
        )
        return tuple(pair for each in keys if (pair := self.get(each, revision)) is not None)

    def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]
    ) -> Answer:
        succeeded = all(
            (found.mod_revision if (found := self.get(c.key)) else 0) == c.mod_revision
            for c in compares
        )
        operations = then if succeeded else otherwise
        written = [each.key for each in operations if isinstance(each, Write)]
        deleted = [each for each in operations if isinstance(each, Delete)]
        if len(set(written)) < len(written) or any(
            _covers(each, key) for each in deleted for key in written
        ):
            raise OperationFailed("etcdserver: duplicate key given in txn request")
        revision, changes, reads = self.revision + 1, list[Changed](), list[tuple[KeyValue, ...]]()
        for each in operations:
            if isinstance(each, Write):
                changes.append(self._write(each, revision))
            elif isinstance(each, Delete):
                changes += [
                    self._delete(pair.key, revision) for pair in self.range(each.key, each.end)
                ]
            else:
                reads.append(self.range(each.key, each.end))
        if changes:
            self.revision = revision
            self.log.append((revision, tuple(changes)))
        return Answer(succeeded, self.revision, tuple(reads))

    def since(self, revision: int) -> list[tuple[int, tuple[Changed, ...]]]:
        return self.log[bisect_left(self.log, revision, key=lambda entry: entry[0]) :]

    def compact(self, revision: int) -> None:
        self.compacted = revision
        self.log = self.since(revision)

    def _write(self, wanted: Write, revision: int) -> Changed:
        before = self.get(wanted.key)
        created = before.create_revision if before else revision
        if wanted.key not in self._versions:
            insort(self._keys, wanted.key)
            self._versions[wanted.key] = []
        pair = KeyValue(wanted.key, wanted.value, created, revision, wanted.lease)
        self._versions[wanted.key].append((revision, pair))
        return Changed(wanted.key, wanted.value, created, revision)

    def _delete(self, key: str, revision: int) -> Changed:
        self._versions[key].append((revision, None))
        return Changed(key, None, 0, revision)


def _covers(deleted: Delete, key: str) -> bool:
    return deleted.key <= key < deleted.end if deleted.end else deleted.key == key
