"""Memory that the C library keeps after a burst, some tens of megabytes, although nobody uses
it."""

import ctypes

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""glibc's; other C libraries have none."""


def release() -> None:
    """Gives what was freed back to the system. Takes some milliseconds: not on the event loop."""
    if _malloc_trim is not None:
        _malloc_trim(0)
