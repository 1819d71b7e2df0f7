"""Identifies a process by its number and start time, so that a process that got the same number
later is never taken for it.

A record is a file `PID STARTED`. Nothing here finds a process by name.
"""

import os
import select
import signal
from pathlib import Path
from typing import NamedTuple

from weft.system.files import replace_file


class Process(NamedTuple):
    pid: int
    started: int
    """Clock ticks after boot: field 22 of /proc/PID/stat."""


def identify(pid: int) -> Process | None:
    """The live process with that number; None for a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, started = fields[0], int(fields[19])
    return None if state in "ZX" else Process(pid, started)


def load(record: str | os.PathLike[str]) -> Process | None:
    """The process that a record names, if it is alive."""
    try:
        with open(record) as file:
            pid, started = map(int, file.read().split())
    except (FileNotFoundError, ValueError):
        return None
    process = Process(pid, started)
    return process if identify(pid) == process else None


def save(record: str | os.PathLike[str], process: Process) -> None:
    """Writes the whole record or nothing."""
    replace_file(Path(record), f"{process.pid} {process.started}\n".encode(), durable=False)


def send(process: Process, number: int) -> bool:
    """Sends a signal. False if the process has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:  # the descriptor is held now, so the comparison stays true until the signal is sent
        if identify(process.pid) != process:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def wait(process: Process, seconds: float) -> bool:
    """Waits until the process has ended; False if it has not within `seconds`."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if identify(process.pid) != process:
            return True
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
