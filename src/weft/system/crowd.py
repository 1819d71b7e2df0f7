"""Who of a crowd must go to make room: connections of which nobody knows yet who it is. Pure.

    strangers   grouped by the address that they come from: a few of each, and so many in all
    members     grouped by the name that their certificate proves: a few of each

The newest is let in. If that makes one too many of its group, the group loses one; if it makes one
too many strangers, the largest group does. So an address that opens many connections loses its own,
and who has opened one keeps it. The one that goes is the oldest of those that have not said a word,
or else the oldest: an honest one says its first word at once.

Addresses that are `known` to be those of nodes lose one only if there are no others: strangers from
ever so many addresses cannot keep nodes out.
"""

from collections.abc import Callable, Hashable
from itertools import chain
from typing import Generic, TypeVar

import msgspec

C = TypeVar("C", bound=Hashable)
Group = dict[C, bool]
"""Those of one address or name, the oldest first, and whether each has said a word."""


class CrowdLimits(msgspec.Struct, frozen=True):
    strangers: int = 512
    """In all."""
    per_source: int = 96
    """Strangers from one address."""
    per_member: int = 96
    """Connections of one member."""


class Crowd(Generic[C]):
    def __init__(self, limits: CrowdLimits, known: Callable[[str], bool]) -> None:
        """`known`: whether an address is a node's."""
        self._limits = limits
        self._known = known
        self._strangers: dict[str, Group[C]] = {}
        self._members: dict[str, Group[C]] = {}
        self._places: dict[C, tuple[dict[str, Group[C]], str]] = {}
        self._count = 0
        """Of strangers."""

    def __len__(self) -> int:
        return len(self._places)

    def all(self) -> list[C]:
        return list(self._places)

    def enter(self, newest: C, source: str) -> C | None:
        """A stranger from that address. Gives who must go for it, who is then no longer in here."""
        group = self._put(newest, self._strangers, source)
        self._count += 1
        if len(group) > self._limits.per_source:
            return self._drop(group, newest)
        if self._count <= self._limits.strangers:
            return None
        unknown = [s for s in self._strangers if not self._known(s)]
        largest = max(unknown or self._strangers, key=lambda s: len(self._strangers[s]))
        return self._drop(self._strangers[largest], newest)

    def spoke(self, one: C) -> None:
        """It has said its first word."""
        if one in self._places:
            groups, key = self._places[one]
            groups[key][one] = True

    def is_member(self, one: C, name: str) -> C | None:
        """It has proved to be that member. Gives who must go for it, as `enter` does."""
        self.leave(one)
        group = self._put(one, self._members, name)
        return self._drop(group, one) if len(group) > self._limits.per_member else None

    def leave(self, one: C) -> bool:
        """It has ended, or has come to something. Whether it was in here."""
        place = self._places.pop(one, None)
        if place is None:
            return False
        groups, key = place
        del groups[key][one]
        if not groups[key]:
            del groups[key]
        self._count -= groups is self._strangers
        return True

    def _put(self, one: C, groups: dict[str, Group[C]], key: str) -> Group[C]:
        group = groups.setdefault(key, {})
        group[one] = False
        self._places[one] = groups, key
        return group

    def _drop(self, group: Group[C], newest: C) -> C:
        others = [one for one in group if one != newest]
        silent = (one for one in others if not group[one])
        gone = next(chain(silent, others), newest)
        self.leave(gone)
        return gone
