"""Token buckets: limits on how often something may happen, with a steady rate and a burst after a
quiet time."""

from collections import OrderedDict


class TokenBucket:
    """A token bucket. Times are seconds of any one clock."""

    def __init__(self, rate: float, burst: float) -> None:
        """`rate`: tokens added per second. `burst`: the most tokens that the bucket holds."""
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._at: float | None = None

    def allows(self, now: float, cost: float = 1.0) -> bool:
        """Takes `cost` tokens if they are there; else takes none and gives False."""
        self._fill(now)
        if self._level < cost:
            return False
        self._level -= cost
        return True

    def owes(self, now: float, cost: float = 1.0) -> float:
        """Takes `cost` tokens in any case; gives the seconds until they are there."""
        self._fill(now)
        self._level -= cost
        return max(0.0, -self._level / self._rate)

    def _fill(self, now: float) -> None:
        if self._at is not None:
            self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now


class TokenBuckets:
    """One bucket for each key. Beyond `most` buckets, the one that was used longest ago is
    forgotten."""

    def __init__(self, rate: float, burst: float, most: int) -> None:
        self._rate = rate
        self._burst = burst
        self._most = most
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def allows(self, key: str, now: float, cost: float = 1.0) -> bool:
        return self._bucket(key).allows(now, cost)

    def owes(self, key: str, now: float, cost: float = 1.0) -> float:
        return self._bucket(key).owes(now, cost)

    def _bucket(self, key: str) -> TokenBucket:
        bucket = self._buckets.pop(key, None) or TokenBucket(self._rate, self._burst)
        self._buckets[key] = bucket
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return bucket
