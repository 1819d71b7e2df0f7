"""Numbers that a part counts while it works, for whoever asks later: counters by label, and
durations by size. Adding to one costs about as much as a call; nobody is told, nothing is stored.

Labels are for what there is a fixed number of, such as routes and states. A number for each client
or each task would fill the memory.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: from a commit on one host to a stop with its grace period."""
FINE = (0.0001, 0.00025, *BOUNDS)
"""Seconds, for answers that need no other program."""


class Histogram:
    """How many values were at most as large as each bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...] = BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Values up to each bound but above the last one; at the end, those above all bounds."""
        self.sum = 0.0

    def add(self, value: float) -> None:
        """A negative value, of a clock that was set back, counts as 0."""
        value = max(value, 0.0)
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)


class Histograms:
    """A histogram for each value of a label."""

    def __init__(self, *labels: str, bounds: tuple[float, ...] = BOUNDS) -> None:
        """`labels`: shown from the beginning, before there is anything to count."""
        self._bounds = bounds
        self.by_label = {label: Histogram(bounds) for label in labels}

    def add(self, label: str, value: float) -> None:
        found = self.by_label.get(label)
        if found is None:
            found = self.by_label[label] = Histogram(self._bounds)
        found.add(value)

    @contextmanager
    def timed(self, label: str) -> Iterator[None]:
        """Adds the seconds that the block takes, unless it raises."""
        begun = perf_counter()
        yield
        self.add(label, perf_counter() - begun)


class Counts:
    """How often something happened, by the values of its labels."""

    def __init__(self) -> None:
        self.by_labels: Counter[tuple[str, ...]] = Counter()

    def add(self, *labels: str) -> None:
        self.by_labels[labels] += 1

    def __getitem__(self, labels: tuple[str, ...]) -> int:
        return self.by_labels[labels]
