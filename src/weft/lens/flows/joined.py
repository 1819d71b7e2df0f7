"""Joins what nodes have observed: each connection once, although it is tracked at several places.

What leaves one place is what arrives at the next: an observation whose first packet is what another
one has carried on belongs to the same connection. So a chain is found, however often addresses were
translated on the way:

    container   10.0.1.5 asks 10.0.1.2 (web)     carried to 10.0.1.6
    container                                    10.0.1.5 asks 10.0.1.6

Where two hosts carry packets with the same addresses and ports to one container, which is possible
by the routing mesh, each observation there belongs to one of them.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from weft.model.flows import (
    STATES,
    FlowsFrame,
    Observation,
    Party,
    PartySides,
    State,
    Traffic,
)

MOST = 400_000
"""Observations that are kept: more are counted, and left out."""

_Side = tuple[str, str, int]
"""The node, if the address is local to it; address, port."""
_Key = tuple[int, _Side, _Side]
"""Of packets: protocol, source, target."""
_Where = tuple[str, int]
"""Node and number of the place."""
_Id = tuple[str, int, _Key, _Key]
"""Of an observation: where, what was asked, what was carried on."""


class Seen(NamedTuple):
    """An observation, by itself."""

    node: str
    place: int
    asked: _Key
    carried: _Key
    source: Party
    """Of the first packet, as it came here."""
    target: Party
    end: Party
    """To whom it was carried."""
    state: State
    sent: Traffic | None
    received: Traffic | None
    ended: bool

    @property
    def id(self) -> _Id:
        """At one place two connections may be asked for by the same packets, each from another host:
        the kernel carries one of them on by another port."""
        return self.node, self.place, self.asked, self.carried

    @property
    def is_translated(self) -> bool:
        return self.asked != self.carried


class End(NamedTuple):
    node: str
    """The id of the node that has told of it."""
    party: Party
    port: int


class Connection(NamedTuple):
    protocol: int
    source: End
    asked: End
    """Whom the source has asked."""
    target: End
    """Who was to answer."""
    state: State
    sent: Traffic | None
    received: Traffic | None


class Group:
    """The observations of one connection."""

    def __init__(self) -> None:
        self.seen: dict[_Id, Seen] = {}
        self.ended: dict[_Id, Seen] = {}
        """Those that their kernels have forgotten since."""

    @property
    def is_over(self) -> bool:
        return not self.seen

    @property
    def where(self) -> set[_Where]:
        return {(seen.node, seen.place) for seen in self.seen.values()}

    def has(self, seen: Seen) -> bool:
        """Whether the same was seen at another place, or at this one under another number."""
        ends = (seen.asked, seen.carried)
        return any((each.asked, each.carried) == ends for each in self.seen.values())

    def comes_otherwise(self, seen: Seen) -> bool:
        """Whether the same packets are known to come from another translation."""
        return seen.is_translated and any(
            each.is_translated and each.carried == seen.carried and each.asked != seen.asked
            for each in self.seen.values()
        )

    def connection(self) -> Connection:
        all_ = [*self.seen.values(), *self.ended.values()]
        carried = {seen.carried for seen in all_ if seen.is_translated}
        asked = {seen.asked for seen in all_ if seen.is_translated}
        firsts = [seen for seen in all_ if seen.asked not in carried] or all_
        lasts = [seen for seen in all_ if seen.carried not in asked] or all_
        # At places before the first translation the same packets are seen; the one that knows most
        # of the source is its own.
        first = min(firsts, key=lambda seen: (_rank(seen.source), not seen.is_translated, seen.id))
        last = min(lasts, key=lambda seen: (_rank(seen.end), seen.id))
        return Connection(
            first.asked[0],
            End(first.node, first.source, first.asked[1][2]),
            End(first.node, first.target, first.asked[2][2]),
            End(last.node, last.end, last.carried[2][2]),
            max((seen.state for seen in all_), key=STATES.index),
            _most(seen.sent for seen in all_),
            _most(seen.received for seen in all_),
        )


class Joined:
    """All connections, as they are known."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._groups: dict[_Id, Group] = {}
        """By observation."""
        self._asked: dict[_Key, list[Group]] = {}
        self._carried: dict[_Key, list[Group]] = {}
        self._places: dict[_Where, set[_Id]] = {}
        self.left_out = 0

    def add(self, node: str, frame: FlowsFrame) -> list[Group]:
        """Takes a node's frame, and gives the connections that it has changed."""
        touched: dict[Group, None] = {}
        for observation in frame.seen:
            seen = _seen(node, observation, frame.parties)
            group = self._put(seen)
            if group is not None:
                touched[group] = None
        for number in frame.closed:
            for id in self._places.pop((node, number), set()):
                touched[self._end(id)] = None
        return list(touched)

    def __iter__(self) -> Iterator[Group]:
        """Each once."""
        return iter(dict.fromkeys(self._groups.values()))

    def forget(self, group: Group) -> None:
        """Of a connection that is over."""
        for seen in group.ended.values():
            for index, key in ((self._asked, seen.asked), (self._carried, seen.carried)):
                left = [each for each in index.get(key, ()) if each is not group]
                if left:
                    index[key] = left
                else:
                    index.pop(key, None)

    def _put(self, seen: Seen) -> Group | None:
        group = self._groups.get(seen.id)
        if group is None:
            if len(self._groups) >= self._most:
                self.left_out += 1
                return None
            group = self._group_of(seen)
        if seen.ended:
            group.seen[seen.id] = seen
            self._remember(seen, group)
            return self._end(seen.id)
        group.seen[seen.id] = seen
        group.ended.pop(seen.id, None)
        self._remember(seen, group)
        return group

    def _remember(self, seen: Seen, group: Group) -> None:
        self._groups[seen.id] = group
        self._places.setdefault((seen.node, seen.place), set()).add(seen.id)
        for index, key in ((self._asked, seen.asked), (self._carried, seen.carried)):
            known = index.setdefault(key, [])
            if group not in known:
                known.append(group)

    def _end(self, id: _Id) -> Group:
        group = self._groups.pop(id)
        self._places.get(id[:2], set()).discard(id)
        group.ended[id] = group.seen.pop(id)
        return group

    def _group_of(self, seen: Seen) -> Group:
        """The connection that the observation belongs to, or a new one."""
        where = (seen.node, seen.place)
        asking = [g for g in self._asked.get(seen.asked, ()) if where not in g.where]
        same = [group for group in asking if group.has(seen)]
        if same:
            return same[0]
        before = [g for g in self._carried.get(seen.asked, ()) if where not in g.where]
        after = [
            group
            for group in self._asked.get(seen.carried, ())
            if where not in group.where and not group.comes_otherwise(seen)
        ]
        if not before:
            return after[0] if after else Group()
        first = before[0]
        for other in after:
            if other is not first and not other.where & first.where:
                self._unite(first, other)
                break
        return first

    def _unite(self, group: Group, other: Group) -> None:
        group.seen |= other.seen
        group.ended |= other.ended
        for seen in (*other.seen.values(), *other.ended.values()):
            if seen.id in other.seen:
                self._groups[seen.id] = group
            for index, key in ((self._asked, seen.asked), (self._carried, seen.carried)):
                known = [each for each in index.get(key, ()) if each is not other]
                index[key] = known if group in known else [*known, group]
        other.seen.clear()
        other.ended.clear()


def _seen(node: str, observation: Observation, parties: tuple[Party, ...]) -> Seen:
    protocol, asked, carried = observation.protocol, observation.asked, observation.carried
    return Seen(
        node,
        observation.place,
        _key(node, protocol, asked, parties),
        _key(node, protocol, carried, parties),
        parties[asked.source],
        parties[asked.target],
        parties[carried.target],
        observation.state,
        observation.sent,
        observation.received,
        observation.ended,
    )


def _key(node: str, protocol: int, sides: PartySides, parties: tuple[Party, ...]) -> _Key:
    source, target = parties[sides.source], parties[sides.target]
    return (
        protocol,
        (node if source.is_local else "", source.address, sides.source_port),
        (node if target.is_local else "", target.address, sides.target_port),
    )


_RANKS = {"task": 0, "container": 0, "service": 1, "node": 2, "outside": 3}


def _rank(party: Party) -> int:
    return _RANKS[party.kind]


def _most(traffic: Iterable[Traffic | None]) -> Traffic | None:
    """Each place counts the same packets; one that has counted more has seen more of them."""
    found = [each for each in traffic if each is not None]
    if not found:
        return None
    return Traffic(max(each.packets for each in found), max(each.bytes for each in found))
