"""Boots one host of the lab (namespaces, file system, cable), and takes it apart again.

    parent ─ fork ─▶ child: own session, control group, unshare ─ fork ─▶ boot.sh, PID 1 of the host ─ exec ─▶ tini
           ◀───────── its number ─────────┘
    parent records it, plugs in the cable, says "go"; boot.sh mounts, says "ready"

The host's first process waits for "go". So at every instant either the record names that process,
or it ends by itself.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

from weft.errors import OperationFailed
from weft.lab import cgroups, underlay
from weft.lab.enter import become
from weft.lab.layout import UPLINK, Host, Layout
from weft.lab.processes import Process, identify, load, save, send, wait
from weft.lab.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    unshare,
)
from weft.system.files import make_missing, replace_file
from weft.system.trees import remove_tree

BOOT_SCRIPT = Path(__file__).with_name("boot.sh")
_NAMESPACES = CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID
UMASK = 0o022
"""The umask of a host's processes, as on any machine, whatever the umask of the person who boots
the host."""
PATIENCE = 60
"""Seconds for a killed process to be gone, on a machine that may be busy with other labs."""
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def boot(layout: Layout, host: Host, others: list[Host]) -> Process:
    """Boots the host and gives its first process once the host is ready. `others`: the hosts in its
    /etc/hosts. Raises `OperationFailed`."""
    group = f"{layout.cgroup}/{host.name}"
    cgroups.create(group)
    etc = _write_files(host, others)
    go_reader, go_writer = os.pipe()
    ready_reader, ready_writer = os.pipe()
    try:
        init = _first_process(group, go_reader, ready_writer, host, _variables(layout, host, etc))
        os.close(ready_writer)
        ready_writer = -1
        save(host.record, init)
        underlay.plug_in(layout, host, init.pid)
        os.write(go_writer, b"go\n")
        if os.read(ready_reader, 16) != b"ready\n":
            raise OperationFailed(
                f"cannot boot {host.name}: {tail(host.log) or 'its first process ended'}"
            )
    finally:
        for descriptor in (go_reader, go_writer, ready_reader, ready_writer):
            if descriptor >= 0:
                os.close(descriptor)
    cgroups.delegate(group)
    return init


def halt(layout: Layout, host: Host) -> None:
    """Kills all processes of the host; its namespaces and mounts end with them. Its files stay for
    `erase`."""
    group = f"{layout.cgroup}/{host.name}"
    init = load(host.record)
    # On a real host that loses power, no process sees another end. So the daemon is killed first,
    # then PID 1; the kernel then ends the others in order of their numbers, and so each container's
    # monitor before the container.
    for process in (load(host.daemon_record), init, *cgroups.processes(group)):
        if process is not None:
            send(process, signal.SIGKILL)
    for process in {init, *cgroups.processes(group)} - {None}:
        if process is not None and not wait(process, PATIENCE):
            raise OperationFailed(f"cannot stop {host.name}: process {process.pid} does not end")
    underlay.unplug(host.link)
    cgroups.remove(group)
    for record in (host.record, host.daemon_record):
        record.unlink(missing_ok=True)


def erase(host: Host) -> None:
    for path in (host.run, host.data):
        with suppress(OSError):
            remove_tree(path)  # images and containers are in it
    host.log.unlink(missing_ok=True)


def tail(log: Path, lines: int = 8) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def _first_process(
    group: str, go: int, ready: int, host: Host, variables: dict[str, str]
) -> Process:
    """Makes the host's namespaces and first process. Forks twice: only a child of the process that
    called unshare is in the new PID namespace."""
    number_reader, number_writer = os.pipe()
    log = os.open(host.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    child = os.fork()
    if child == 0:
        try:
            os.umask(UMASK)
            os.setsid()  # Ctrl-C at the terminal must not reach the host
            os.dup2(log, 2)
            cgroups.enter(group)
            unshare(CLONE_NEWCGROUP)
            cgroups.enter(f"{group}/{cgroups.INIT}")
            unshare(_NAMESPACES)
            init = os.fork()
            if init == 0:
                become(lambda: _streams(go, ready), ["sh", str(BOOT_SCRIPT)], variables)
            os.write(number_writer, str(init).encode())
            os._exit(0)
        except OSError as error:
            os.write(2, f"{error}\n".encode())
        finally:
            os._exit(1)
    os.close(number_writer)
    os.close(log)
    number = os.read(number_reader, 16)
    os.close(number_reader)
    os.waitpid(child, 0)
    process = identify(int(number)) if number else None
    if process is None:
        raise OperationFailed(f"cannot make namespaces for {host.name}: {tail(host.log)}")
    return process


def _streams(go: int, ready: int) -> None:
    os.dup2(go, 0)
    os.dup2(ready, 1)


def _variables(layout: Layout, host: Host, etc: Path) -> dict[str, str]:
    groups = "\n".join(
        f"{kind} {path} {options or '-'}" for path, kind, options in cgroups.hierarchies()
    )
    return {
        "PATH": _SEARCH_PATH,
        "NAME": host.name,
        "ADDRESS": f"{host.address}/{layout.subnet.prefixlen}",
        "UPLINK": UPLINK,
        "RUN": str(host.run),
        "DATA": str(host.data),
        "STATE": str(layout.state),
        "ETC": str(etc),
        "CGROUPS": groups,
    }


def _write_files(host: Host, others: list[Host]) -> Path:
    etc = host.run / "etc"
    make_missing(host.data, 0o710)
    make_missing(etc, 0o755)
    names = "".join(f"{other.address} {other.name}\n" for other in others)
    files = {
        "hostname": f"{host.name}\n",
        "hosts": f"127.0.0.1 localhost\n::1 localhost\n{names}",
        "resolv.conf": (
            "# a host of the lab has no way out of the machine, so there is no name server\n"
        ),
    }
    for name, text in files.items():
        replace_file(etc / name, text.encode(), mode=0o644, durable=False)
    return etc
