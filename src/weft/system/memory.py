"""Returns memory to the system that the C library keeps after a burst although it is free: some
tens of megabytes."""

import ctypes

_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
"""Only glibc has it."""


def release() -> None:
    """Gives freed memory back to the system. Takes some milliseconds: not on the event loop."""
    if _malloc_trim is not None:
        _malloc_trim(0)
