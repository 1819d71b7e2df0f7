"""Starts a container that runc has made, without another run of runc, which costs as much time as to
start a small program twenty times.

The container's first process waits until somebody opens its FIFO for reading, writes a byte to it
and becomes the user's program. As long as the FIFO is there, runc takes the container for one that
has not been started (runc 1.0 and later, libcontainer/container_linux.go)."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from weft.system.process import Process

FIFO = "exec.fifo"
LOOK = 0.1
"""Seconds between two looks whether the process has ended meanwhile."""


async def release(directory: Path, init: Process) -> bool:
    """`directory`: runc's, of the container. False if the process has ended before, or does not
    wait: then runc itself says what is wrong."""
    fifo = directory / FIFO
    try:
        fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    is_released = False
    try:
        await _readable(fd, init)
    finally:
        # Also if the caller has given up: the process may go on from the moment of the opening.
        with suppress(OSError):
            is_released = os.read(fd, 1) != b""
        os.close(fd)
        if is_released:
            fifo.unlink(missing_ok=True)
    return is_released


async def _readable(fd: int, init: Process) -> None:
    """Returns also when the process has ended."""
    loop, some = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, some.set)
    try:
        while not some.is_set() and not init.has_ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await some.wait()
    finally:
        loop.remove_reader(fd)
