"""unshare(2), setns(2) and prctl(2), which Python has from 3.12 or not at all. Only the calls.

All of them act on the calling thread. Call them in a process with a single thread, such as a
freshly forked child.
"""

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Raises `OSError`."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int = 0) -> None:
    """Raises `OSError`."""
    _check(_libc.setns(descriptor, kind), "setns")


def die_with_parent(signal: int) -> None:
    """This process gets `signal` when the thread that forked it ends. Raises `OSError`."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl")


def _check(result: int, call: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
