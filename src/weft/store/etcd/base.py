"""What Weft uses of etcd: `Kv`. `client.py` is the real one, `store/etcd/fake.py` one in memory
that behaves like it.

Keys are text, values bytes. A revision counts the transactions that wrote something; a key has the
revision that created it and the one that wrote it last, both 0 while it does not exist.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

import msgspec

from weft.errors import OperationFailed

NO_MAJORITY = (
    "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few"
    " managers are online. Make sure more than half of the managers are online."
)
"""Docker Swarm's text, of `Unavailable`."""
FULL = (
    "cannot write to the store: etcd's database has reached its quota (alarm NOSPACE), until it is"
    " compacted and defragmented"
)
"""Of `OperationFailed`."""
FIRST_KEY = "\0"


class Compacted(OperationFailed):
    """The revision asked for is history that was thrown away. Load everything anew."""


class KeyValue(msgspec.Struct, frozen=True):
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class Range(msgspec.Struct, frozen=True):
    revision: int
    """Of the whole store at that moment."""
    pairs: tuple[KeyValue, ...]
    """In order of keys."""
    more: bool = False
    """The limit left some out."""


class Compare(msgspec.Struct, frozen=True):
    """That a key was last written at this revision; 0: that it does not exist."""

    key: str
    mod_revision: int


class Write(msgspec.Struct, frozen=True):
    key: str
    value: bytes = b""
    lease: int = 0


class Delete(msgspec.Struct, frozen=True):
    key: str
    end: str = ""
    """If given, all keys from `key` to before `end`."""


class Read(msgspec.Struct, frozen=True):
    key: str
    end: str = ""


Operation = Write | Delete | Read


class Answer(msgspec.Struct, frozen=True):
    """Of a transaction."""

    succeeded: bool
    """Whether all compares held."""
    revision: int
    """Of the store afterwards; of the transaction itself if it wrote something."""
    reads: tuple[tuple[KeyValue, ...], ...] = ()
    """What its `Read`s gave, in their order."""


class Changed(msgspec.Struct, frozen=True):
    key: str
    value: bytes | None
    """None: the key was deleted."""
    create_revision: int
    mod_revision: int


class Batch(msgspec.Struct, frozen=True):
    """Changes in order of revision. Those of one revision are never in two batches."""

    changes: tuple[Changed, ...]


class Member(msgspec.Struct, frozen=True):
    id: int
    name: str
    """Empty until it was started for the first time."""
    peer_urls: tuple[str, ...]
    is_learner: bool = False


class MemberStatus(msgspec.Struct, frozen=True):
    """Of the member that was asked."""

    member: int
    leader: int
    """Member id; 0 if it knows none."""
    revision: int
    size: int
    """Bytes of its file."""
    is_learner: bool = False
    in_use: int = 0
    """Bytes of `size` that hold something."""
    is_full: bool = False
    """A member, not this one necessarily, has raised the alarm NOSPACE."""


class Kv(Protocol):
    """Every call has a timeout. All raise `Unavailable`: no answer, or no majority (`NO_MAJORITY`).
    What was asked for may then have happened, or happen yet. Other refusals are `OperationFailed`,
    `NotFound`, `FailedPrecondition`."""

    async def range(
        self,
        key: str,
        end: str = "",
        *,
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
    ) -> Range:
        """One key, or all from `key` to before `end`. Without a `revision` the newest that a
        majority knows; `serializable`: what the member itself knows, without a majority as well.
        Raises `Compacted`."""
        ...

    async def txn(
        self,
        compares: Sequence[Compare],
        then: Sequence[Operation],
        otherwise: Sequence[Operation] = (),
    ) -> Answer:
        """Atomic. No key may be written twice in it."""
        ...

    def watch(self, key: str, end: str, revision: int) -> AsyncGenerator[Batch, None]:
        """Changes from `revision` on. The first batch is empty: it says that the watch stands.
        Close it (`aclosing`). Raises `Compacted`."""
        ...

    async def grant(self, ttl: int) -> int:
        """A lease of so many seconds; keys that are written with it go when it ends."""
        ...

    async def keep_alive(self, lease: int) -> int:
        """Its whole time begins anew; gives that in seconds. Raises `NotFound` if it has ended."""
        ...

    async def revoke(self, lease: int) -> None:
        """Ends it, if it has not ended."""
        ...

    async def members(self) -> tuple[Member, ...]: ...

    async def add_learner(self, peer_url: str) -> Member:
        """A member that does not vote. Raises `FailedPrecondition` while there is another such
        member, or if too few of the present ones are up."""
        ...

    async def promote(self, member: int) -> None:
        """Gives it its vote. Raises `FailedPrecondition` while it has not caught up or if it votes
        already, `NotFound`."""
        ...

    async def remove_member(self, member: int) -> None:
        """Raises `NotFound`, and `FailedPrecondition` if those left would have no majority."""
        ...

    async def status(self) -> MemberStatus: ...

    async def alarms(self) -> frozenset[int]:
        """Members that have raised the alarm NOSPACE: no write is taken while there is one, but for
        deletions."""
        ...

    async def disarm(self, member: int) -> None: ...

    async def compact(self, revision: int) -> None:
        """Throws away what was before that revision. Raises `Compacted` if it is gone already."""
        ...

    async def defragment(self) -> None:
        """Makes the member's file as small as it can be; it answers nothing meanwhile."""
        ...

    async def close(self) -> None: ...


def after(prefix: str) -> str:
    """The end of the range of all keys that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
