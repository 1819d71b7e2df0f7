"""Runs a command inside a host of the lab: `weft lab exec NODE -- CMD…`.

Scripts call this hundreds of times, so this file imports little. The parent process joins the
host's PID namespace and forks; the child joins the other namespaces and becomes the command. The
parent stays outside, passes signals on and ends with the command's exit status.

    caller ── weft lab exec (outside) ── fork ──▶ child: PID, IPC, UTS, network, mount namespaces of the host ── exec CMD

The command dies with its parent: killing `weft lab exec` never leaves it running. Processes that
the command put into the background live on and belong to the host, as on any machine.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from weft.errors import cause_of
from weft.lab.processes import Process, load
from weft.lab.syscalls import die_with_parent, setns

RUN = "/run/weft/lab"
_AFTER_FORK = ("ipc", "uts", "net", "cgroup", "mnt")
"""The mount namespace is last: after joining it, this process's paths are gone."""
_FORWARDED = {
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
}
_SENT_BY_KERNEL = 0x80
"""si_code SI_KERNEL: the terminal sent the signal to the whole foreground group, so the command has
it already."""
_DOCKER_VARIABLES = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH")
"""These are about the caller's machine; inside a host, the docker command must talk to that
host."""


def main(arguments: Sequence[str]) -> int:
    """`arguments`: NODE [--] CMD…. Gives the exit status of the command, 128 + N if signal N ended
    it."""
    node, *command = arguments or ("",)
    if command[:1] == ["--"]:
        command = command[1:]
    if not node or not command:
        return _fail("usage: weft lab exec NODE -- COMMAND [ARGUMENT...]", 2)
    init = load(f"{RUN}/{node}.init") if "/" not in node else None
    if init is None:
        return _fail(
            f"cannot run a command on {node}: no such host in the lab, or it is not running (weft"
            " lab status)",
            125,
        )
    return run(init, command, environment(node))


def environment(node: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _DOCKER_VARIABLES}
    return {**inherited, "HOSTNAME": node}


def run(init: Process, command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Runs the command in the namespaces of the process `init`, with this process's terminal,
    streams and directory. Gives its exit status."""
    try:
        namespaces = open_namespaces(init.pid)
        setns(namespaces.pop("pid"))
    except OSError as error:
        return _fail(f"cannot enter the namespaces of process {init.pid}: {cause_of(error)}", 125)
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        become(lambda: _prepare(namespaces, parent, old_mask), command, variables)
    return _attend(child)


def open_namespaces(pid: int) -> dict[str, int]:
    """Descriptors of a process's namespaces, by name. Raises `OSError`."""
    return {
        name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        for name in ("pid", *_AFTER_FORK)
    }


def join(namespaces: Mapping[str, int]) -> None:
    """Joins all namespaces but the PID namespace, which a process can only give to its children."""
    for name in _AFTER_FORK:
        setns(namespaces[name])


def become(
    prepare: Callable[[], None], command: Sequence[str], variables: Mapping[str, str]
) -> NoReturn:
    """Turns a forked child into the command. Exit statuses 125 to 127 mean the same as in `env` and
    `nohup`."""
    status = 125
    try:
        prepare()
        status = 126
        os.execvpe(command[0], list(command), dict(variables))
    except FileNotFoundError:
        status = _fail(f"{command[0]}: command not found", 127)
    except OSError as error:
        _fail(f"cannot run {command[0]}: {cause_of(error)}", status)
    finally:
        os._exit(status)


def _prepare(namespaces: Mapping[str, int], parent: int, mask: set[int | signal.Signals]) -> None:
    die_with_parent(signal.SIGKILL)
    directory = os.getcwd()
    # Still in the caller's /proc: the parent may have died before the line above.
    alive = os.path.exists(f"/proc/{parent}")
    join(namespaces)
    try:
        os.chdir(directory)
    except OSError:
        os.chdir("/")
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    # Python ignores these two signals, and ignored signals stay ignored over exec; but a command
    # such as `head` relies on SIGPIPE.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if not alive:
        os._exit(125)


def _attend(child: int) -> int:
    while True:
        received = signal.sigwaitinfo({*_FORWARDED, signal.SIGCHLD})
        if received.si_signo != signal.SIGCHLD:
            if received.si_code != _SENT_BY_KERNEL:
                # Not reaped yet, so this is still the child's number.
                os.kill(child, received.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _fail(message: str, status: int) -> int:
    print(f"weft: {message}", file=sys.stderr, flush=True)
    return status
