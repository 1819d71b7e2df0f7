"""Faults of a host of the lab, and their repair: its packets get lost, its daemon is stopped. (See
also `lab.reboot`, `daemons.stop`.)

A cut is a separate nftables table in the host's network namespace. The cable stays up: on a real
network nobody is told either.
"""

import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from weft.errors import FailedPrecondition, OperationFailed
from weft.lab import cgroups
from weft.lab.layout import UPLINK, Host, Layout
from weft.lab.processes import Process, load, send

TABLE = "inet weft_lab_cut"
STORE = "etcd"
"""The program of the etcd member that a manager may run beside its daemon."""


def cut(host: Host, others: Sequence[Host] = ()) -> None:
    """Cuts the host off from these hosts, or from everybody. Raises `OperationFailed`."""
    addresses = ", ".join(str(other.address) for other in others)
    source, target = (
        f"ip {word} {{ {addresses} }} " if addresses else "" for word in ("saddr", "daddr")
    )
    _nft(
        host,
        f"add table {TABLE}",
        f"add chain {TABLE} arriving {{ type filter hook prerouting priority -450; }}",
        f"add chain {TABLE} leaving {{ type filter hook postrouting priority 450; }}",
        f'add rule {TABLE} arriving iifname "{UPLINK}" {source}drop',
        f'add rule {TABLE} leaving oifname "{UPLINK}" {target}drop',
    )


def heal(host: Host) -> None:
    _nft(host, f"add table {TABLE}", f"delete table {TABLE}")


def pause(layout: Layout, host: Host) -> None:
    """Stops the processes of the daemon and the etcd member. Raises `FailedPrecondition` if no
    daemon runs."""
    _signal(layout, host, signal.SIGSTOP)


def resume(layout: Layout, host: Host) -> None:
    _signal(layout, host, signal.SIGCONT)


def store_process(layout: Layout, host: Host) -> Process | None:
    """The process of the host's etcd member, which outlives its daemon."""
    own = cgroups.processes(f"{layout.cgroup}/{host.name}/{cgroups.INIT}")
    return next((process for process in own if _name(process) == STORE), None)


def _name(process: Process) -> str:
    """The name of its program; empty if the process has ended."""
    with suppress(OSError):
        return Path(f"/proc/{process.pid}/comm").read_text().strip()
    return ""


def _signal(layout: Layout, host: Host, number: int) -> None:
    daemon = load(host.daemon_record)
    if daemon is None:
        raise FailedPrecondition(f"cannot pause or resume {host.name}: its daemon is not running")
    for process in (daemon, store_process(layout, host)):
        if process is not None:
            send(process, number)


def _nft(host: Host, *lines: str) -> None:
    init = load(host.record)
    if init is None:
        raise FailedPrecondition(f"cannot cut or heal {host.name}: the host is not running")
    done = subprocess.run(
        ["nsenter", "-n", "-t", str(init.pid), "nft", "-f", "-"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OperationFailed(f"cannot change the cut of {host.name}: {done.stderr.strip()}")
