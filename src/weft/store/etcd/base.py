"""`Kv`: the port to etcd, with all that Weft uses. `client.py` is the adapter, `store/etcd/fake.py`
a fake in memory.

Keys are text, values bytes. A revision counts the transactions that wrote something. A key has the
revision that created it and the one that wrote it last, both 0 while the key does not exist."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

import msgspec

from weft.errors import OperationFailed

NO_MAJORITY = (
    "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few"
    " managers are online. Make sure more than half of the managers are online."
)
"""Docker Swarm's text, for `Unavailable`."""
FULL = (
    "cannot write to the store: etcd's database has reached its quota (alarm NOSPACE), until it is"
    " compacted and defragmented"
)
"""The text of an `OperationFailed`."""
FIRST_KEY = "\0"


class Compacted(OperationFailed):
    """The requested revision was discarded by a compaction. Load everything anew."""


class KeyValue(msgspec.Struct, frozen=True):
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class Range(msgspec.Struct, frozen=True):
    revision: int
    """The revision of the whole store at that moment."""
    pairs: tuple[KeyValue, ...]
    """In order of keys."""
    more: bool = False
    """The limit left some keys out."""


class Compare(msgspec.Struct, frozen=True):
    """Demands that a key was last written at this revision; 0: that the key does not exist."""

    key: str
    mod_revision: int


class Write(msgspec.Struct, frozen=True):
    key: str
    value: bytes = b""
    lease: int = 0


class Delete(msgspec.Struct, frozen=True):
    key: str
    end: str = ""
    """If given, deletes all keys from `key` to before `end`."""


class Read(msgspec.Struct, frozen=True):
    key: str
    end: str = ""


Operation = Write | Delete | Read


class Answer(msgspec.Struct, frozen=True):
    """The answer to a transaction."""

    succeeded: bool
    """Whether all compares held."""
    revision: int
    """The revision of the store afterwards: of this transaction if it wrote something."""
    reads: tuple[tuple[KeyValue, ...], ...] = ()
    """The results of its `Read`s, in their order."""


class Changed(msgspec.Struct, frozen=True):
    key: str
    value: bytes | None
    """None: the key was deleted."""
    create_revision: int
    mod_revision: int


class Batch(msgspec.Struct, frozen=True):
    """Changes in order of revision. The changes of one revision are never in two batches."""

    changes: tuple[Changed, ...]


class Member(msgspec.Struct, frozen=True):
    id: int
    name: str
    """Empty until the member was first started."""
    peer_urls: tuple[str, ...]
    is_learner: bool = False


class MemberStatus(msgspec.Struct, frozen=True):
    """The status of the member that was asked."""

    member: int
    leader: int
    """Member id; 0 if the member knows no leader."""
    revision: int
    size: int
    """Bytes of the member's database file."""
    is_learner: bool = False
    in_use: int = 0
    """Bytes of `size` that hold something."""
    is_full: bool = False
    """Some member, not necessarily this one, has raised the alarm NOSPACE."""


class Pace(msgspec.Struct, frozen=True):
    """How slow etcd may be. The store's other deadlines keep their proportion to the election
    timeout: on slow hosts, or between distant ones, all of them must be longer, or managers take
    each other for lost as soon as etcd does not any more."""

    election: float = 1.0
    """Seconds without a word of etcd's leader after which another is elected."""

    def of(self, seconds: float) -> float:
        """`seconds`: the deadline where the election timeout is one second."""
        return seconds * self.election


USUAL = Pace()


class Kv(Protocol):
    """Every call has a timeout. Every call raises `Unavailable` without an answer or without quorum
    (`NO_MAJORITY`); the operation may then have happened, or may happen later. Other refusals raise
    `OperationFailed`, `NotFound` or `FailedPrecondition`."""

    @property
    def pace(self) -> Pace: ...

    async def range(
        self,
        key: str,
        end: str = "",
        *,
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
    ) -> Range:
        """Reads one key, or all from `key` to before `end`; without a `revision`, the newest that a
        quorum knows. `serializable`: reads what the asked member itself knows, which works without
        quorum. Raises `Compacted`."""
        ...

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> Answer:
        """Carries out an atomic transaction. No key may be written twice in it."""
        ...

    def watch(self, key: str, end: str, revision: int) -> AsyncGenerator[Batch, None]:
        """Yields changes from `revision` on. The first batch is empty: the watch is established.
        Close the generator (`aclosing`). Raises `Compacted`."""
        ...

    async def grant(self, ttl: int) -> int:
        """Gives a new lease of `ttl` seconds. Keys written with the lease are deleted when it
        ends."""
        ...

    async def keep_alive(self, lease: int) -> int:
        """Restarts the lease's time, and gives that in seconds. Raises `NotFound` if the lease has
        ended."""
        ...

    async def revoke(self, lease: int) -> None:
        """Ends the lease, if it has not ended."""
        ...

    async def members(self) -> tuple[Member, ...]: ...

    async def add_learner(self, peer_url: str) -> Member:
        """Adds a member without a vote. Raises `FailedPrecondition` while there is another such
        member, or if too few of the present members are up."""
        ...

    async def promote(self, member: int) -> None:
        """Gives a learner its vote. Raises `FailedPrecondition` while the learner has not caught up
        or if the member votes already, `NotFound`."""
        ...

    async def remove_member(self, member: int) -> None:
        """Raises `NotFound`, and `FailedPrecondition` if the members left would have no quorum."""
        ...

    async def status(self) -> MemberStatus: ...

    async def alarms(self) -> frozenset[int]:
        """Members that have raised the alarm NOSPACE. While there is one, etcd takes no writes but
        deletions."""
        ...

    async def disarm(self, member: int) -> None: ...

    async def compact(self, revision: int) -> None:
        """Discards the history before that revision. Raises `Compacted` if it is gone already."""
        ...

    async def defragment(self) -> None:
        """Makes the member's file as small as possible; the member answers nothing meanwhile."""
        ...

    async def close(self) -> None: ...


def after(prefix: str) -> str:
    """The end of the range of all keys that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
