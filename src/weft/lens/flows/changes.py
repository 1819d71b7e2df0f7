"""Connections as they come and go, one line for each change.

The places where a connection is tracked tell of it at different moments. So a change is shown
`PATIENCE` after its first word, when all of them have spoken."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from weft.lens.flows.joined import Connection, Group, Joined
from weft.model.flows import FlowsFrame, State

PATIENCE = 0.7
"""Seconds. Nodes send changes as they come; this is for hosts that are busy."""

Word = State | Literal["ended"]
FINAL: frozenset[Word] = frozenset(("closing", "reset", "refused", "ended"))


class Change(NamedTuple):
    word: Word
    connection: Connection


class Changes:
    def __init__(self) -> None:
        self.joined = Joined()
        self._due: dict[Group, float] = {}
        """When a changed connection is shown; the first is due first."""
        self._told: dict[Group, Word] = {}

    def take(self, node: str, frame: FlowsFrame, now: float) -> None:
        """`now`: seconds of any one clock."""
        for group in self.joined.add(node, frame):
            if frame.is_table and group not in self._told:
                state = group.connection().state
                if state in FINAL:  # it was over before anybody looked
                    self._told[group] = state
                    continue
            self._due.setdefault(group, now + PATIENCE)

    def pause(self, now: float) -> float | None:
        """Seconds until something is due; None if nothing is."""
        first = next(iter(self._due.values()), None)
        return None if first is None else max(0.0, first - now)

    def due(self, now: float) -> Iterator[Change]:
        for group, at in list(self._due.items()):
            if at > now:
                return
            del self._due[group]
            if not group.seen and not group.ended:
                continue  # it turned out to be one with another
            change = self._change(group)
            if group.is_over:
                self._told.pop(group, None)
                self.joined.forget(group)
            if change is not None:
                yield change

    def _change(self, group: Group) -> Change | None:
        connection, told = group.connection(), self._told.get(group)
        word: Word = connection.state
        if group.is_over and word in ("open", "unanswered"):
            word = "ended" if word == "open" else "unanswered"
            if told == word == "unanswered":
                return None
        if word == told or (told in FINAL and (group.is_over or word in FINAL)):
            return None
        self._told[group] = word
        return Change(word, connection)
