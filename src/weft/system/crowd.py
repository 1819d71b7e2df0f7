"""Limits on open connections, and which connection must be closed when there is one too many. Pure.

    strangers   connections that have not proved who they are, grouped by their source address:
                limited per address and in all
    members     connections grouped by the name that their certificate proves: limited per name

The newest connection is let in. If its group is then over the limit, the group loses one
connection; if there are too many strangers in all, the largest group of strangers loses one. So an
address that opens many connections loses its own, and an address that has opened one keeps it.
Within a group, the oldest connection that has not sent a byte is closed, or else the oldest: an
honest client sends its first bytes at once.

Addresses that are `known` to belong to nodes lose a connection only if there are no others:
strangers from any number of addresses cannot keep nodes out.
"""

from collections.abc import Callable, Hashable
from itertools import chain
from typing import Generic, TypeVar

import msgspec

C = TypeVar("C", bound=Hashable)
Group = dict[C, bool]
"""The connections of one address or name, the oldest first, and whether each has sent anything."""


class CrowdLimits(msgspec.Struct, frozen=True):
    strangers: int = 512
    """In all."""
    per_source: int = 96
    """Strangers from one address."""
    per_member: int = 96
    """Connections of one member."""


class Crowd(Generic[C]):
    def __init__(self, limits: CrowdLimits, known: Callable[[str], bool]) -> None:
        """`known`: whether an address belongs to a node."""
        self._limits = limits
        self._known = known
        self._strangers: dict[str, Group[C]] = {}
        self._members: dict[str, Group[C]] = {}
        self._places: dict[C, tuple[dict[str, Group[C]], str]] = {}
        self._count = 0
        """The number of strangers."""

    def __len__(self) -> int:
        return len(self._places)

    def all(self) -> list[C]:
        return list(self._places)

    def enter(self, newest: C, source: str) -> C | None:
        """Adds a stranger from the address `source`. Gives the connection that must be closed to
        make room, which is already removed here; None if there is room."""
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
        """The connection has sent its first bytes."""
        if one in self._places:
            groups, key = self._places[one]
            groups[key][one] = True

    def is_member(self, one: C, name: str) -> C | None:
        """The connection has proved to be the member `name`. Gives the connection that must be
        closed, as `enter` does."""
        self.leave(one)
        group = self._put(one, self._members, name)
        return self._drop(group, one) if len(group) > self._limits.per_member else None

    def leave(self, one: C) -> bool:
        """Removes a connection that has ended or needs no limit any more. False if it was not in
        here."""
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
