"""`docker top`: the processes of a container as `ps -ef` prints them, read from /proc without
starting a program; with options of the client's own, as the host's ps prints them."""

import os
import re
import time
from pathlib import Path

from weft.errors import InvalidArgument, OperationFailed, cause_of, clip
from weft.system.process import run

TITLES = ("UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD")
PPID, TTY, UTIME, STIME, STARTED = 1, 4, 11, 12, 19
"""Indexes of fields in /proc/PID/stat after the name, which is in parentheses and may contain any
character. proc(5) numbers the first field after the name 3."""
_OTHER_PID = re.compile(r"=\s*PID")


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


def arguments(text: str) -> list[str]:
    """The options for ps that a client asks for. Raises `InvalidArgument` for those that give the
    name PID to another column: by PIDs the container's processes are known."""
    if "\0" in text:
        raise InvalidArgument(f"invalid ps_args {clip(text)!r}: it has a NUL in it")
    if _OTHER_PID.search(text):
        raise InvalidArgument(f"specifying {clip(text)!r} is not allowed: it names a column PID")
    return text.split()


async def listed(pids: list[int], options: list[str]) -> tuple[list[str], list[list[str]]]:
    """(titles, rows) as the host's ps prints them with these options, of these processes only.
    Raises `InvalidArgument` if ps does not understand them, or prints no PIDs."""
    try:
        output = await run(["ps", *options])
    except OSError as error:
        raise OperationFailed(f"cannot run ps: {cause_of(error)}") from error
    if output.code != 0:
        raise InvalidArgument(f"cannot list processes: ps: {clip(output.text)}")
    return chosen(output.text, pids)


def chosen(printed: str, pids: list[int]) -> tuple[list[str], list[list[str]]]:
    """Only the last column may contain spaces."""
    head, *lines = printed.splitlines() or [""]
    titles = head.split()
    if "PID" not in titles:
        raise InvalidArgument("cannot list processes: couldn't find PID field in ps output")
    place, wanted = titles.index("PID"), {str(pid) for pid in pids}
    rows = [line.split(None, len(titles) - 1) for line in lines]
    return titles, [row for row in rows if len(row) > place and row[place] in wanted]
