"""The command lines of conmon and of the OCI runtime (runc, or crun where it works), and the
meaning of their answers.

conmon stays with a container for its life: it writes the log, lets clients attach, and writes the
exit code to disk. conmon is a child of the daemon but ends with the container, not with the daemon.
The OCI runtime exits after each operation.
"""

import asyncio
import errno
import logging
import os
import shutil
from pathlib import Path

import msgspec

from weft.errors import OperationFailed
from weft.model.numbers import decimal
from weft.runtime.control_groups import ControlGroups, group_of, groups_of
from weft.runtime.release import release
from weft.system.process import Output, Process, ProcessId, end_family, read, run, spawn
from weft.system.scopes import CGROUPS
from weft.system.trees import remove_tree

log = logging.getLogger(__name__)


class _SyncMessage(msgspec.Struct):
    """conmon's message on its pipe: the PID of the container's first process, or -1 and the
    reason."""

    data: int | None = None
    pid: int | None = None
    message: str = ""


class _State(msgspec.Struct):
    """What the runtime says of a container: `state.md` of its specification."""

    status: str


class Oci:
    def __init__(self, state: Path, runtime: str, conmon: str, patience: float) -> None:
        """`state`: the OCI runtime's own directory. `runtime`: a program, or `auto`. `patience`:
        seconds that the runtime may take to make a container or to start a command. The runtime
        opens files of the container (runc 1.1: /etc/passwd, for the home directory). If the
        container has replaced such a file with a FIFO, the runtime would wait for ever."""
        self._state = state
        self.runtime = choose_runtime() if runtime == "auto" else runtime
        self.conmon = conmon
        self.patience = patience
        self.groups = ControlGroups()
        self._root = ("--root", str(state))

    async def versions(self) -> tuple[str, str]:
        """`runc 1.1.5`, `conmon 2.1.6`. Raises `OperationFailed` if a program is missing."""
        found = []
        for program in (self.runtime, self.conmon):
            output = await run([program, "--version"])
            words = output.text.partition("\n")[0].split()
            if output.code != 0 or len(words) < 2:
                raise OperationFailed(f"cannot run {program} --version: {output.text}")
            found.append(f"{Path(program).name} {words[-1].partition('+')[0]}")
        return found[0], found[1]

    async def create(
        self,
        id: str,
        directory: Path,
        *,
        log_bytes: int,
        tty: bool,
        stdin: bool,
        stdin_once: bool = False,
    ) -> tuple[Process, ProcessId]:
        """Makes the container that `directory`/config.json describes: (its conmon, its first
        process, which waits for start). `log_bytes`: when its log is as long, conmon begins a new
        one. `stdin_once`: its input ends with the first client that writes to it. Raises
        `OperationFailed` with the runtime's own text."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            inputs = (["--stdin"] if stdin else []) + (
                ["--leave-stdin-open"] if stdin and not stdin_once else []
            )
            argv = self._conmon_arguments(id, directory, log_bytes, tty, inputs)
            conmon = spawn(argv, {3: write_end}, {**os.environ, "_OCI_SYNCPIPE": "3"})
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        try:
            async with asyncio.timeout(self.patience):
                message = _decode(await read(read_end, line=True))
            pid = message.pid if message.pid is not None else message.data or -1
            process = ProcessId.of(pid) if pid > 0 else None
            if process is None:
                raise OperationFailed(
                    f"cannot create container {id[:12]}:"
                    f" {_reason(message.message) or 'it ended at once'}"
                )
            await self.groups.adopt_monitor(id, conmon.pid)
        except BaseException as error:
            await asyncio.shield(end_family(conmon))
            conmon.close()
            if isinstance(error, TimeoutError):
                raise OperationFailed(
                    f"cannot create container {id[:12]}: {self.runtime} has not made it within"
                    f" {self.patience:g} s"
                ) from None
            raise
        return conmon, process

    def _conmon_arguments(
        self, id: str, directory: Path, log_bytes: int, tty: bool, inputs: list[str]
    ) -> list[str]:
        """Runs in the container's directory, because conmon writes the file `oom` to its working
        directory."""
        files = [
            "--bundle",
            str(directory),
            "--persist-dir",
            str(directory),
            "--exit-dir",
            str(directory),
        ]
        log = [
            "--log-path",
            f"k8s-file:{directory / 'log'}",
            "--log-size-max",
            str(log_bytes),
            "--no-sync-log",
        ]
        streams = ["--full-attach", *(["--terminal"] if tty else []), *inputs]
        runtime = ["--runtime", shutil.which(self.runtime) or self.runtime]
        runtime += [part for argument in self._root for part in ("--runtime-arg", argument)]
        return [
            "env", f"--chdir={directory}", self.conmon, "--sync", "--api-version", "1", "--cid", id, "--cuuid", id,
            "--container-pidfile", str(directory / "pid"), "--log-level", "error", *files, *log, *streams, *runtime,
        ]  # fmt: skip

    async def start(self, id: str, init: Process | None) -> None:
        """`init`: the container's first process, if it is known."""
        is_runc = Path(self.runtime).name == "runc"
        if init is None or not is_runc or not await release(self._state / id, init):
            await self._run("start", id, "start")

    async def delete(self, id: str, group: str) -> None:
        """A container that the runtime does not know is no error. `group`: see
        `ContainerConfig.group`."""
        output = await run([self.runtime, *self._root, "delete", "--force", id])
        if output.code != 0 and "does not exist" not in output.text:
            raise OperationFailed(f"cannot remove container {id[:12]}: {_reason(output.text)}")
        await self.groups.remove(group)

    async def forget(self, id: str, group: str) -> None:
        """As `delete`, without starting the runtime: for a container that has ended, and whose
        processes the kernel has ended with the first, because they had a PID namespace of their own.
        What is left then is an entry in the runtime's directory and the cgroups. Raises `OSError` if
        the container has made cgroups of its own, which the runtime removes."""
        for path in groups_of(group):
            if path.stat().st_nlink > 2:
                raise OSError(errno.ENOTEMPTY, f"there are groups in {path}")
        await self.groups.remove(group)
        remove_tree(self._state / id)

    async def pause(self, id: str) -> None:
        """Freezes all processes."""
        await self._run("pause", id, "pause")

    async def resume(self, id: str) -> None:
        await self._run("unpause", id, "resume")

    async def update(self, id: str, resources: Path) -> None:
        """Gives the container other limits: those in the file, as the specification has them."""
        await self._run("update", id, "update", "--resources", str(resources))

    def knows(self, id: str) -> bool:
        return (self._state / id).exists()

    async def has_started(self, id: str) -> bool:
        """For a container that was made: the runtime reports `created` until the container is
        started."""
        output = await run([self.runtime, *self._root, "state", id])
        if output.code != 0:
            return False
        try:
            return msgspec.json.decode(output.raw, type=_State).status != "created"
        except msgspec.DecodeError as error:
            log.warning("container.state_unknown container=%s cause=%s", id[:12], error)
            return False

    def processes(self, group: str) -> list[int]:
        """PIDs from the container's cgroup. The container is always in the hierarchy pids or
        memory."""
        for controller in ("pids", "memory"):
            path = group_of(group, controller) / "cgroup.procs"
            if path.exists():
                return sorted(int(line) for line in path.read_text().split())
        return []

    def exec_arguments(
        self, id: str, process: Path, pid_file: Path, log: Path, console: Path | None
    ) -> list[str]:
        """The command line that starts another process in the container, writes its PID and
        exits."""
        terminal = ["--console-socket", str(console)] if console is not None else []
        return [
            self.runtime, *self._root, "--log", str(log), "exec", "--detach", "--process", str(process), "--pid-file",
            str(pid_file), *terminal, id,
        ]  # fmt: skip

    async def _run(self, verb: str, id: str, *arguments: str) -> Output:
        output = await run([self.runtime, *self._root, *arguments, id])
        if output.code != 0:
            raise OperationFailed(f"cannot {verb} container {id[:12]}: {_reason(output.text)}")
        return output


def choose_runtime() -> str:
    """crun is faster, but refuses a host that has both versions of cgroups."""
    hybrid = (CGROUPS / "unified").is_dir()
    return "crun" if shutil.which("crun") and not hybrid else "runc"


def processes_with_argument(argument: str) -> list[int]:
    """Processes that have `argument` on their command line."""
    found = []
    for path in Path("/proc").iterdir():
        if decimal(path.name) is None:
            continue
        try:
            arguments = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if argument.encode() in arguments:
            found.append(int(path.name))
    return found


def _decode(line: bytes) -> _SyncMessage:
    try:
        return msgspec.json.decode(line, type=_SyncMessage)
    except msgspec.DecodeError:
        return _SyncMessage(message=line.decode(errors="replace"))


def _reason(text: str) -> str:
    """The runtime's last message, without time stamps."""
    line = text.strip().rpartition("\n")[2]
    for mark in ('msg="', "runc create failed: ", "runc run failed: "):
        line = line.partition(mark)[2] or line
    return line.rstrip('"').replace('\\"', '"')
