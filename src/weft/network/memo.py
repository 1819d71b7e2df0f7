"""Reuses a result as long as its inputs are the same objects.

Values are frozen, so the same object means that nothing has changed, and an identity check costs
nothing. A result that a round does not ask for is forgotten after that round.
"""

from collections.abc import Callable, Hashable, Mapping
from operator import is_
from typing import Any, NamedTuple, TypeVar

K = TypeVar("K", bound=str)
T = TypeVar("T")


class _Kept(NamedTuple):
    inputs: tuple[object, ...]
    result: Any

    def is_made_of(self, inputs: tuple[object, ...]) -> bool:
        return len(self.inputs) == len(inputs) and all(map(is_, self.inputs, inputs))


class Memo:
    def __init__(self) -> None:
        self._before: dict[Hashable, _Kept] = {}
        self._now: dict[Hashable, _Kept] = {}

    def keep(self, key: Hashable, inputs: tuple[object, ...], make: Callable[[], T]) -> T:
        """The result of `make`, which depends on the inputs alone. `key` names the result."""
        kept = self._now.get(key) or self._before.get(key)
        if kept is None or not kept.is_made_of(inputs):
            kept = _Kept(inputs, make())
        self._now[key] = kept
        result: T = kept.result
        return result

    def follow(self, key: Hashable, inputs: tuple[object, ...], make: Callable[[T | None], T]) -> T:
        """Like `keep`, but `make` gets the previous result; None if there is none."""
        kept = self._now.get(key) or self._before.get(key)
        if kept is None or not kept.is_made_of(inputs):
            kept = _Kept(inputs, make(kept.result if kept else None))
        self._now[key] = kept
        result: T = kept.result
        return result

    def turn(self) -> None:
        """Ends a round."""
        self._before, self._now = self._now, {}


def exchanged(old: Mapping[K, T], new: Mapping[K, T]) -> tuple[list[T], list[T]]:
    """The values that are gone, and those that came. Values that are the same object in both are
    left out; there are thousands of these."""
    gone = [each for key, each in old.items() if new.get(key) is not each]
    return gone, [each for key, each in new.items() if old.get(key) is not each]
