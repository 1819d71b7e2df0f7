"""Sequence numbers that never repeat under one key, whatever process takes them and whenever it
dies.

Numbers are taken from blocks. A block is reserved, and the reservation is on disk, before its first
number is used. A process that starts anew reserves a block behind all blocks ever reserved for that
key, and forgets the rest of the last one. `Reservations` is the content of the file on disk
(linux/esp/ledger.py writes it); an association takes its numbers from `Numbers`. Numbers have 32
bits (RFC 4303 section 2.2, without extended ones). After the last number there must be a new key.
"""

import hashlib
from typing import NamedTuple

import msgspec

from weft.model.encryption import Association

FIRST = 1
END = 2**32
BLOCK = 2**22
"""Numbers in a block. A restart every 42 s during a key's twelve hours would use all its numbers; a
block lasts half a minute at 1.5 Gbit/s."""
KEYS_REMEMBERED = 2**14
"""Keys whose reservations are kept. The least recently used ones are dropped: those keys were
replaced long ago."""


class Block(NamedTuple):
    next: int
    """The first number not yet taken."""
    end: int
    """The first number behind the block."""


NONE_LEFT = Block(END, END)


def fingerprint(association: Association) -> bytes:
    """Identifies a key in the ledger without revealing it; a different key begins anew."""
    return hashlib.sha256(b"weft esp ledger" + association.key).digest()[:16]


class Reservations(msgspec.Struct, frozen=True):
    ends: dict[bytes, int] = {}
    """By fingerprint: the first number never reserved. In order of their last reservation."""

    def reserve(
        self, associations: tuple[Association, ...]
    ) -> "tuple[Reservations, tuple[Block, ...]]":
        """A block for each association; `NONE_LEFT` if its key has no more numbers. The blocks may
        be used once the new reservations are on disk."""
        ends, blocks = dict(self.ends), []
        for association in associations:
            name = fingerprint(association)
            start = ends.pop(name, FIRST)
            ends[name] = min(start + BLOCK, END)
            blocks.append(Block(start, ends[name]))
        kept = list(ends.items())[-max(KEYS_REMEMBERED, len(associations)) :]
        return Reservations(dict(kept)), tuple(blocks)


class Numbers:
    """The numbers of one outbound association: the block in use and the next one, which is reserved
    in time."""

    def __init__(self, block: Block) -> None:
        self._next, self._end = block
        self._spare: Block | None = None
        self.low = (self._next + self._end) // 2
        """When this number is taken, it is time to reserve the next block."""

    @property
    def is_low(self) -> bool:
        """The block is half used, there is no other, and more can be reserved."""
        return self._next >= self.low and self._end < END and self._spare is None

    @property
    def is_exhausted(self) -> bool:
        """All numbers of the key are used."""
        return self._next >= END

    def extend(self, block: Block) -> None:
        self._spare = block

    def take(self) -> int:
        """The next number. 0: no number is reserved, or none is left."""
        if self._next == self._end and self._spare is not None:
            self._next, self._end = self._spare
            self.low = (self._next + self._end) // 2
            self._spare = None
        if self._next == self._end:
            return 0
        self._next += 1
        return self._next - 1
