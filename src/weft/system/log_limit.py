"""Lines that others can cause at will are logged once in a while, and say how often they would have
been."""

from collections.abc import Callable

PERIOD = 60.0
"""Seconds."""
MOST_KEYS = 100


class LogLimit:
    """One for each kind of line."""

    def __init__(
        self, clock: Callable[[], float], period: float = PERIOD, most: int = MOST_KEYS
    ) -> None:
        """`most`: keys of which lines are logged in one period, in which each has one line."""
        self._clock = clock
        self._period = period
        self._most = most
        self._ends = 0.0
        self._counts: dict[str, int] = {}
        """Lines of this period, by key."""
        self._before: dict[str, int] = {}
        """Of the period before."""

    def times(self, key: str) -> int:
        """0: not now. Else how many lines about `key` this one stands for: itself, and those that
        were kept back in the last period."""
        now = self._clock()
        if now >= self._ends:
            is_next = now < self._ends + self._period
            self._before, self._counts = (self._counts if is_next else {}), {}
            self._ends = now + self._period
        if key not in self._counts and len(self._counts) >= self._most:
            return 0
        self._counts[key] = self._counts.get(key, 0) + 1
        return max(1, self._before.get(key, 0)) if self._counts[key] == 1 else 0
