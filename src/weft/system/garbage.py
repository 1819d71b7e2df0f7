"""Short passes of Python's collector of cyclic garbage in a process that keeps many objects.

The collector's pass over the oldest objects visits all of them, and nothing else runs meanwhile:
with the 30,000 tasks of a thousand nodes it takes some 200 ms, every few thousand changes. Nearly
all of these objects are values without cycles, which their reference counts free.

So objects that have survived such a pass are set aside (`gc.freeze`), and the next passes visit
only what is new (decision 34). Set aside, an object is still freed by its reference count; only a
cycle that dies there stays. When the memory in use has doubled since everything was last visited,
everything is visited again: garbage cannot take more than what was in use, and the long passes
become ever rarer. From Python 3.14 the collector does its work in small steps by itself."""

import gc
import sys
from typing import Literal

OLDEST = 2
THRESHOLDS = (700, 10, 5)
"""Python's own for the two younger generations. The third: half of Python's, because the passes
over the oldest objects are now as long as what has been made since the last one."""


class ShortPasses:
    """Call `begin` once in a process, before the objects are made."""

    def __init__(self) -> None:
        self._everything_at = 0
        """Memory blocks in use at which everything is visited again."""
        self._visits_everything = False
        self._before = gc.get_threshold()

    def begin(self) -> None:
        self._everything_at = 2 * sys.getallocatedblocks()
        gc.set_threshold(*THRESHOLDS)
        gc.callbacks.append(self._passed)

    def end(self) -> None:
        """Undoes `begin`."""
        gc.callbacks.remove(self._passed)
        gc.unfreeze()
        gc.set_threshold(*self._before)

    def _passed(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        """The collector calls this before and after each pass."""
        if phase != "stop" or info["generation"] != OLDEST:
            return
        used = sys.getallocatedblocks()
        if self._visits_everything:
            self._everything_at = 2 * used
        self._visits_everything = used > self._everything_at
        if self._visits_everything:
            gc.unfreeze()
        else:
            gc.freeze()
