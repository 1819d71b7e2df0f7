"""What the kernel counts in the network namespace of a process: /proc/PID/net/snmp, proc_net(5)."""

from pathlib import Path

from weft.model.numbers import decimal

PROC = Path("/proc")


def accepted(pid: int, proc: Path = PROC) -> int:
    """TCP connections that were accepted so far, those of the loopback device included; 0 if there
    is no such process."""
    if not pid:
        return 0
    try:
        text = (proc / str(pid) / "net" / "snmp").read_text()
    except OSError:
        return 0
    rows = [line.split() for line in text.splitlines() if line.startswith("Tcp:")]
    found = dict(zip(*rows, strict=False)) if len(rows) == 2 else {}
    return decimal(found.get("PassiveOpens", "")) or 0
