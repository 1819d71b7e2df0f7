"""An event loop whose clock jumps to the next timer instead of waiting for it.

A simulation of hours runs in milliseconds and always in the same order. Only what waits for timers
and for other tasks of the loop is simulated: a socket that never becomes ready while no timer is
armed is a `Deadlock`, which in a test is the better answer than a test that never ends.

    virtual_time.run(main())
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from weft.model.meta import SECOND, Nanoseconds

T = TypeVar("T")

START: Nanoseconds = 1_700_000_000 * SECOND
"""What the wall clock says when a simulation begins: not 0, which means "never"."""


class Deadlock(AssertionError):
    """Every task waits, no timer is armed and no file descriptor is ready."""


class _JumpingSelector(selectors.DefaultSelector):
    """Asked to wait, it looks at the file descriptors and then moves its clock by the whole
    wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise Deadlock("all tasks are blocked and no timer is armed")
        if not ready and timeout:
            self.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(main: Coroutine[Any, Any, T]) -> T:
    """Like `asyncio.run`, on a virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def clock() -> Nanoseconds:
    """The time in the running simulation, for those who take a clock as an argument."""
    return START + round(asyncio.get_running_loop().time() * SECOND)
