"""Ranks the nodes that can take a task: fewest recent failures of the service first, then fewest
tasks of the service, then fewest tasks, then lowest id. With spread preferences, the branch of the
label tree with the fewest tasks of the service comes first, level by level.

`Ranking` is a tree with a heap in each leaf, so that placing n tasks on m nodes costs m + n log m.
"""

import heapq
from collections.abc import Callable, Sequence

import msgspec

from weft.control.scheduler.constraints import label
from weft.control.scheduler.filters import Place
from weft.model.ids import NodeId
from weft.model.meta import SECOND, Nanoseconds

MANY_FAILURES = 4
FAILURE_WINDOW: Nanoseconds = 300 * SECOND
"""A node on which a service failed this often within five minutes is tried last. Swarmkit
(scheduler/nodeinfo.go) counts to five in memory. Weft counts task records; by default a slot keeps
four beside the new one."""

Rank = tuple[int, int, int, NodeId]


class History(msgspec.Struct):
    """The tasks and failures of one service on one node."""

    tasks: int = 0
    failures: int = 0
    """Failures within the window."""


_NOTHING = History()


class _Branch(msgspec.Struct):
    tasks: int = 0
    """Tasks of the service on all nodes below this branch."""
    branches: dict[str, "_Branch"] = msgspec.field(default_factory=dict)
    heap: list[tuple[Rank, Place]] = msgspec.field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.heap and all(branch.is_empty for branch in self.branches.values())


class Ranking:
    def __init__(self, histories: dict[NodeId, History], spread: Sequence[str]) -> None:
        self._histories = histories
        self._spread = spread
        self._root = _Branch()

    def add(self, place: Place) -> None:
        branches = self._path(place)
        for branch in branches:
            branch.tasks += self.tasks(place)
        heapq.heappush(branches[-1].heap, (self._rank(place), place))

    def tasks(self, place: Place) -> int:
        """The number of tasks of the service there."""
        return self._histories.get(place.node.id, _NOTHING).tasks

    def history(self, place: Place) -> History:
        """The history there, to count in."""
        return self._histories.setdefault(place.node.id, History())

    def pick(self, may: Callable[[Place], bool]) -> Place | None:
        """The best place that can take the next task; None if none is left. The caller counts the
        task in `history` and in the place, then calls `put_back`. Places that cannot take it are
        dropped for good: nothing is given back within a pass."""
        while not self._root.is_empty:
            branch = self._root
            while branch.branches:
                open_ = [(b.tasks, name) for name, b in branch.branches.items() if not b.is_empty]
                branch = branch.branches[min(open_)[1]]
            _, place = heapq.heappop(branch.heap)
            if may(place):
                return place
        return None

    def put_back(self, place: Place) -> None:
        """Puts the place back after a task was counted there."""
        branches = self._path(place)
        for branch in branches:
            branch.tasks += 1
        heapq.heappush(branches[-1].heap, (self._rank(place), place))

    def _path(self, place: Place) -> list[_Branch]:
        path = [self._root]
        for key in self._spread:
            path.append(path[-1].branches.setdefault(label(place.node, key), _Branch()))
        return path

    def _rank(self, place: Place) -> Rank:
        history = self._histories.get(place.node.id, _NOTHING)
        failures = history.failures if history.failures >= MANY_FAILURES else 0
        return failures, history.tasks, place.tasks, place.node.id
