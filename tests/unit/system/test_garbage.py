"""Passes of the collector, counted by the objects that they visit: no test depends on time."""

import gc
import statistics
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from weft.system.garbage import ShortPasses

# What other tests have left behind complains when it is collected here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Linked:
    """An object that refers to itself: only the collector frees it."""

    def __init__(self, payload: Any = None) -> None:
        self.itself, self.payload = self, payload


@pytest.fixture
def passes() -> Iterator[ShortPasses]:
    passes = ShortPasses()
    passes.begin()
    gc.collect()
    gc.collect()  # it comes by itself when there is a quarter more than at its last pass
    yield passes
    passes.end()


def visited() -> int:
    """Objects that a pass over the oldest ones would visit."""
    return len(gc.get_objects())


def test_what_survived_a_pass_is_not_visited_again(passes: ShortPasses) -> None:
    state = [[number] for number in range(20_000)]
    assert visited() > 20_000
    gc.collect()
    assert visited() < 2_000
    more = [[number] for number in range(3_000)]
    assert 3_000 <= visited() < 5_000
    del state, more


def test_garbage_among_new_objects_is_freed_by_the_next_pass(passes: ShortPasses) -> None:
    gc.collect()
    gone = weakref.ref(Linked())
    gc.collect()
    assert gone() is None


def test_what_has_no_cycle_is_freed_at_once_wherever_it_is(passes: ShortPasses) -> None:
    class Plain:
        pass

    kept = Plain()
    gone = weakref.ref(kept)
    gc.collect()
    del kept
    assert gone() is None


def test_garbage_that_was_set_aside_is_freed_once_memory_in_use_has_doubled(
    passes: ShortPasses,
) -> None:
    kept = Linked()
    gone = weakref.ref(kept)
    gc.collect()
    del kept
    gc.collect()
    assert gone() is not None
    hoard = []
    while gone() is not None:
        hoard.append([[number] for number in range(50_000)])
        gc.collect()
        assert len(hoard) < 200
    gc.collect()
    assert visited() < 10_000, "after that, old objects are set aside again"


def test_the_collector_comes_by_itself(passes: ShortPasses) -> None:
    """Without anybody who calls it, as objects are made. Now and then it visits everything."""
    hoard: list[list[int]] = []
    visits = []
    for _ in range(40):
        hoard += [[number] for number in range(10_000)]
        visits.append(visited())
    assert statistics.median(visits) < len(hoard) / 4


def test_everything_is_as_before_at_the_end() -> None:
    before, callbacks = gc.get_threshold(), list(gc.callbacks)
    passes = ShortPasses()
    passes.begin()
    gc.collect()
    passes.end()
    assert gc.get_threshold() == before
    assert gc.callbacks == callbacks
    assert gc.get_freeze_count() == 0
