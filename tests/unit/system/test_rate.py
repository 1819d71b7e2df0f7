"""Rates, and lines of a log that others cause, by a clock of the test."""

import pytest

from weft.system.log_limit import LogLimit
from weft.system.rate import TokenBucket, TokenBuckets


def test_a_burst_and_then_a_steady_rate() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    assert [bucket.allows(0.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert [bucket.allows(0.1), bucket.allows(0.1)] == [True, False]
    assert sum(bucket.allows(0.1 + step / 1000) for step in range(1, 10_001)) in (99, 100)
    assert sum(bucket.allows(1000.0) for _ in range(100)) == 5, "no more than the burst"


def test_what_is_owed_is_paid_by_waiting() -> None:
    bucket = TokenBucket(rate=10, burst=5)
    now = 0.0
    for _ in range(105):
        now += bucket.owes(now)
    assert now == pytest.approx(10.0)
    assert bucket.owes(now, 20) == pytest.approx(2.0)
    assert bucket.owes(now + 100, 5) == 0


def test_each_has_its_own_and_the_oldest_is_forgotten() -> None:
    buckets = TokenBuckets(rate=0.001, burst=1, most=2)
    assert buckets.allows("a", 0)
    assert not buckets.allows("a", 0)
    assert buckets.allows("b", 0)
    assert not buckets.allows("a", 0)
    assert buckets.allows("c", 0)
    assert not buckets.allows("a", 0)
    assert buckets.allows("b", 0), "was forgotten"


def test_a_line_stands_for_those_that_were_kept_back() -> None:
    now = 0.0
    limit = LogLimit(lambda: now, period=60, most=3)
    assert [limit.times("a") for _ in range(1000)] == [1] + [0] * 999
    assert [limit.times(key) for key in "bcd"] == [1, 1, 0], "and not of ever so many"
    now = 61
    assert [limit.times("a"), limit.times("a")] == [1000, 0]
    now = 1000
    assert limit.times("a") == 1
