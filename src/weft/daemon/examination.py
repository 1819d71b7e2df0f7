"""What is wrong with this host, as far as a running daemon's network cares: firewalls, ports,
missing features of the kernel, network software, room for connections.

`weft check` judges the same facts before there is a daemon (`fitness.py`); here only what is judged
an error or a warning is told, of the parts that are in the packets' way."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from weft.daemon.fitness import Finding as Fitness
from weft.daemon.fitness import HostFacts
from weft.daemon.fitness import examine as judge
from weft.daemon.host_facts import gather_running
from weft.model.finding import Finding
from weft.model.numbers import decimal

NEARLY_FULL = 0.95
CONNTRACK = Path("/proc/sys/net/netfilter")
MOST_REMEDY = 400
"""Characters."""


class HostExaminer:
    """One look at a time: it starts some programs."""

    def __init__(self, data_root: Path) -> None:
        self._data_root = data_root
        self._turn = asyncio.Lock()

    async def __call__(self) -> Sequence[Finding]:
        async with self._turn:
            facts = await asyncio.to_thread(gather_running, self._data_root, os.getpid())
        return [*from_facts(facts), *connections(_number("nf_conntrack_count"), _number("nf_conntrack_max"))]  # fmt: skip


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


def _number(name: str) -> int:
    try:
        return decimal((CONNTRACK / name).read_text().strip()) or 0
    except OSError:
        return 0
