"""`docker top`: the processes of a container as `ps -ef` prints them, read from /proc without
starting a program."""

import os
import time
from pathlib import Path

TITLES = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
PPID, TTY, UTIME, STIME, STARTED = 1, 4, 11, 12, 19
"""Indexes of fields in /proc/PID/stat after the name, which is in parentheses and may contain any
character. proc(5) numbers the first field after the name 3."""


def rows(pids: list[int]) -> list[list[str]]:
    """One row per process that still exists, in the order of PIDs."""
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    found = []
    for pid in sorted(pids):
        try:
            found.append(_row(pid, boot))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _row(pid: int, boot: float) -> list[str]:
    directory = Path(f"/proc/{pid}")
    name, _, rest = (
        (directory / "stat").read_text(errors="replace").partition("(")[2].rpartition(")")
    )
    stat = rest.split()
    ticks = os.sysconf("SC_CLK_TCK")
    used = (int(stat[UTIME]) + int(stat[STIME])) // ticks
    started = boot + int(stat[STARTED]) / ticks
    command = (
        (directory / "cmdline")
        .read_bytes()
        .rstrip(b"\0")
        .replace(b"\0", b" ")
        .decode(errors="replace")
    )
    return [
        str(directory.stat().st_uid),
        str(pid),
        stat[PPID],
        str(int(100 * used / max(time.time() - started, 1))),
        time.strftime("%H:%M", time.localtime(started)),
        _terminal(int(stat[TTY])),
        f"{used // 3600:02d}:{used // 60 % 60:02d}:{used % 60:02d}",
        command or f"[{name}]",
    ]


def _terminal(device: int) -> str:
    """Pseudo-terminals have major numbers 136 to 143."""
    major, minor = os.major(device), os.minor(device)
    return f"pts/{(major - 136) * 256 + minor}" if 136 <= major <= 143 else "?"
