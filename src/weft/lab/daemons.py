"""Starts and ends the daemon of a lab host, as its init system would. The lab does not watch the
daemon.

The daemon is a grandchild that was forked inside the host's PID namespace, so the host's first
process reaps it. Only the kernel can tell which number the daemon has outside: the daemon sends one
byte over a UNIX socket, and the kernel adds the sender's number as the receiver sees it
(SCM_CREDENTIALS, unix(7)).
"""

import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence

from weft.errors import FailedPrecondition, OperationFailed
from weft.lab import cgroups
from weft.lab.enter import become, join, open_namespaces
from weft.lab.hosts import UMASK, tail
from weft.lab.layout import Host, Layout
from weft.lab.processes import Process, identify, load, save, send, wait
from weft.lab.syscalls import setns

COMMAND = (sys.executable, "-m", "weft", "daemon", "--data-root", "/var/lib/weft")
_VARIABLES = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
_CREDENTIALS = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""


def start(layout: Layout, host: Host, command: Sequence[str] = COMMAND) -> Process:
    """Starts the daemon unless it runs, and gives its process. Raises `FailedPrecondition` if the
    host is not up."""
    running = load(host.daemon_record)
    if running is not None:
        return running
    init = load(host.record)
    if init is None:
        raise FailedPrecondition(f"cannot start the daemon of {host.name}: the host is not running")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        child = os.fork()
        if child == 0:
            _launch(f"{layout.cgroup}/{host.name}/{cgroups.INIT}", init, host, theirs, command)
        theirs.close()
        os.waitpid(child, 0)
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(_CREDENTIALS.size))
    pid = _CREDENTIALS.unpack(ancillary[0][2])[0] if ancillary else 0
    process = identify(pid) if pid else None
    if process is None:
        raise OperationFailed(f"cannot start the daemon of {host.name}: {tail(host.log)}")
    save(host.daemon_record, process)
    return process


def stop(host: Host, number: int = signal.SIGTERM, seconds: float = 10) -> bool:
    """Sends the signal and waits for the daemon's end. False if no daemon ran. Raises
    `OperationFailed` if the daemon does not end within `seconds`."""
    running = load(host.daemon_record)
    if running is None or not send(running, number):
        return False
    if not wait(running, seconds):
        raise OperationFailed(
            f"cannot stop the daemon of {host.name}: process {running.pid} ignores signal {number}"
        )
    return True


def _launch(
    group: str, init: Process, host: Host, report: socket.socket, command: Sequence[str]
) -> None:
    """Runs in the forked child; never returns."""
    try:
        log = os.open(host.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        cgroups.enter(group)
        namespaces = open_namespaces(init.pid)
        setns(namespaces["pid"])
        if os.fork() == 0:  # in the PID namespace, but a child of a process outside
            if (
                os.fork() == 0
            ):  # its parent, a process inside, ends now: the host's first process adopts it
                become(lambda: _detach(namespaces, log, report), command, _VARIABLES)
            os._exit(0)
        os.wait()
    except OSError as error:
        os.write(2, f"{error}\n".encode())
    finally:
        os._exit(0)


def _detach(namespaces: Mapping[str, int], log: int, report: socket.socket) -> None:
    report.send(b"!")
    os.umask(UMASK)
    os.setsid()
    join(namespaces)
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
