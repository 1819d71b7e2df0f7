"""A limit for log lines that others can cause at will: each is logged once in a while, with the
number of times it would have been logged."""

from collections.abc import Callable

PERIOD = 60.0
"""Seconds."""
MOST_KEYS = 100


class LogLimit:
    """One limiter for each kind of line."""

    def __init__(
        self, clock: Callable[[], float], period: float = PERIOD, most: int = MOST_KEYS
    ) -> None:
        """`most`: how many keys may be logged in one period; each gets one line in a period."""
        self._clock = clock
        self._period = period
        self._most = most
        self._ends = 0.0
        self._counts: dict[str, int] = {}
        """Lines in this period, by key."""
        self._before: dict[str, int] = {}
        """Lines in the period before."""

    def times(self, key: str) -> int:
        """0 if the line about `key` is not to be logged now. Otherwise how many lines this one
        stands for: itself, and those kept back in the last period."""
        now = self._clock()
        if now >= self._ends:
            is_next = now < self._ends + self._period
            self._before, self._counts = (self._counts if is_next else {}), {}
            self._ends = now + self._period
        if key not in self._counts and len(self._counts) >= self._most:
            return 0
        self._counts[key] = self._counts.get(key, 0) + 1
        return max(1, self._before.get(key, 0)) if self._counts[key] == 1 else 0
