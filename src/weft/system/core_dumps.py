"""Keeps this process's memory off the disk when it crashes: a manager and an agent hold secrets."""

import ctypes

_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def forbid() -> None:
    """The kernel writes no core of this process, and only root may look into it; see prctl(2).
    Programs that it starts are not concerned: exec allows their cores again."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
