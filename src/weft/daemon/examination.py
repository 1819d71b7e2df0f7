"""What is wrong with this host, as far as a running daemon's network cares: firewalls, ports,
missing features of the kernel, network software, room for connections; and the files of the API's
certificates.

`weft check` judges the same facts before there is a daemon (`fitness.py`); here only what is judged
an error or a warning is told, of the parts that are in the packets' way."""

import asyncio
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from weft.daemon.fitness import Finding as Fitness
from weft.daemon.fitness import HostFacts
from weft.daemon.fitness import examine as judge
from weft.daemon.host_facts import gather_running
from weft.errors import InvalidArgument
from weft.model.finding import Finding, Severity
from weft.model.meta import SECOND, Nanoseconds
from weft.model.numbers import decimal
from weft.pki.certificate import ends
from weft.system.tls_files import TlsFiles

NEARLY_FULL = 0.95
CONNTRACK = Path("/proc/sys/net/netfilter")
DAY = 24 * 3600 * SECOND
SOON = 30
"""Days before its end from which a certificate is told of."""
MOST_REMEDY = 400
"""Characters."""


class HostExaminer:
    """One look at a time: it starts some programs."""

    def __init__(self, data_root: Path, tls: Iterable[TlsFiles] = ()) -> None:
        """`tls`: the files that the daemon serves with."""
        self._data_root = data_root
        self._tls = tuple(tls)
        self._turn = asyncio.Lock()

    async def __call__(self) -> Sequence[Finding]:
        async with self._turn:
            facts = await asyncio.to_thread(gather_running, self._data_root, os.getpid())
        room = connections(_number("nf_conntrack_count"), _number("nf_conntrack_max"))
        return [*from_facts(facts), *room, *certificates(self._tls, time.time_ns())]


def from_facts(facts: HostFacts) -> list[Finding]:
    return [_finding(each) for each in judge(facts) if each.severity != "note"]


def _finding(said: Fitness) -> Finding:
    remedy = "; ".join(said.remedy)
    does_not_work = said.severity == "error" or said.about in ("firewall", "ports")
    return Finding(
        severity="error" if does_not_work else "warning",
        what=said.about,
        cause=said.text.partition(". To ")[0],
        remedy=remedy if len(remedy) <= MOST_REMEDY else "weft check says what to type",
    )  # fmt: skip


def connections(count: int, room: int) -> list[Finding]:
    """Of the host's table of connections: the kernel drops new ones when it is full."""
    if not room or count <= NEARLY_FULL * room:
        return []
    return [
        Finding(
            severity="error",
            what="connection tracking",
            cause=f"the table has {count} of at most {room} connections, and new ones are dropped",
            remedy=f"sysctl -w net.netfilter.nf_conntrack_max={2 * room}",
        )
    ]


def certificates(tls: Iterable[TlsFiles], now: Nanoseconds) -> list[Finding]:
    """Of the files with which the daemon serves the API and the metrics over TCP: it does not renew
    them, their owner does."""
    paths = dict.fromkeys(path for files in tls for path in (files.certificate, files.ca))
    return [found for path in paths if (found := _certificate(path, now)) is not None]


def _certificate(path: Path, now: Nanoseconds) -> Finding | None:
    try:
        until = ends(path.read_text())
    except (OSError, UnicodeDecodeError, InvalidArgument) as error:
        return _of_file(path, "error", f"cannot read it: {error}")
    if until <= now:
        return _of_file(path, "error", "it has ended, and clients refuse it")
    days = (until - now) // DAY
    return _of_file(path, "warning", f"it ends in {days} days") if days < SOON else None


def _of_file(path: Path, severity: Severity, cause: str) -> Finding:
    remedy = "put a new one there; the daemon reads it by itself"
    return Finding(
        severity=severity, what=f"certificate {path} of the API", cause=cause, remedy=remedy
    )


def _number(name: str) -> int:
    try:
        return decimal((CONNTRACK / name).read_text().strip()) or 0
    except OSError:
        return 0
