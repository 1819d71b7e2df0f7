"""What the kernel counts in the network namespace of a process: /proc/PID/net/snmp, proc_net(5)."""

from pathlib import Path

from weft.model.numbers import decimal
from weft.model.top import TcpCounts

PROC = Path("/proc")


def accepted(pid: int, proc: Path = PROC) -> int:
    """TCP connections that were accepted so far, those of the loopback device included; 0 if there
    is no such process."""
    return tcp_counts(pid, proc).accepted


def tcp_counts(pid: int, proc: Path = PROC) -> TcpCounts:
    """Those of the loopback device included; zeros if there is no such process."""
    if not pid:
        return TcpCounts()
    try:
        text = (proc / str(pid) / "net" / "snmp").read_text()
    except OSError:
        return TcpCounts()
    rows = [line.split() for line in text.splitlines() if line.startswith("Tcp:")]
    found = dict(zip(*rows, strict=False)) if len(rows) == 2 else {}

    def number(name: str) -> int:
        return decimal(found.get(name, "")) or 0

    return TcpCounts(
        number("PassiveOpens"),
        number("ActiveOpens"),
        number("AttemptFails"),
        number("EstabResets"),
        number("CurrEstab"),
        number("RetransSegs"),
    )
