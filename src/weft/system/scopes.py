"""Gives processes that outlive the daemon units of their own, where systemd rules the host.

Containers' monitors, etcd and the encryption engine are started by the daemon, so they would be
processes of its unit: systemd would complain about them at each stop and start, count their memory
as the daemon's, and end them with the unit if somebody changed how it is ended. They get scopes in
`weft.slice` instead (systemd.scope(5)), which end with their last process:

    systemd-cgls -u weft.slice

A scope may be delegated: systemd leaves the control groups below it alone, and one who makes them
there does not write behind its back (systemd.io/CGROUP_DELEGATION). A process that cannot be moved
runs where it is. On hosts without systemd nothing is done.
"""

import asyncio
import logging
import secrets
import shutil
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.system.process import Process, run, spawn

log = logging.getLogger(__name__)

SLICE = "weft.slice"
SERVICE = "weft.service"
_FILE_SYSTEMS = "local-fs.target"
CGROUPS = Path("/sys/fs/cgroup")
_SYSTEMD = Path("/run/systemd/system")
"""Is there while systemd is the host's init: sd_booted(3)."""
_CALL = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)
_KEEPER = ("sleep", "infinity")
_LEAF = "monitors"
"""Below a delegated scope, for processes: a group with controllers may hold none itself."""
_STOP_PATIENCE = 10_000_000
"""Microseconds from SIGTERM to SIGKILL, if systemd ends the processes of a scope: Docker's grace
period for containers."""
_MOVE_TRIES, _MOVE_PAUSE = 500, 0.01
"""How often, and with which pause in seconds, it is checked whether systemd has moved a process:
it does so after its answer."""


def rules() -> bool:
    """Whether systemd rules this host's control groups and can be talked to."""
    return _SYSTEMD.exists() and shutil.which("busctl") is not None


def arguments(unit: str, description: str, pid: int, *, delegated: bool = False) -> list[str]:
    """The command that makes the scope, with the process in it.

    The scope is before the daemon's unit, so that at a shutdown, where the order is reversed, the
    daemon ends first: it tells the swarm while the containers still run, and then ends them. If there
    is no daemon systemd ends them, before it unmounts their file systems."""
    properties = [
        ("Description", "s", f"Weft: {description}"),
        ("PIDs", "au", "1", str(pid)),
        ("Slice", "s", SLICE),
        ("CollectMode", "s", "inactive-or-failed"),
        ("Before", "as", "1", SERVICE),
        ("After", "as", "1", _FILE_SYSTEMS),
        ("TimeoutStopUSec", "t", str(_STOP_PATIENCE)),
        *([("Delegate", "b", "true")] if delegated else []),
    ]
    return [
        "busctl", "--quiet", "call", *_CALL, "StartTransientUnit", "ssa(sv)a(sa(sv))",
        unit, "fail", str(len(properties)), *(word for words in properties for word in words), "0",
    ]  # fmt: skip


async def move(name: str, pid: int) -> None:
    """Moves a process into a scope of its own. `name`: what it is, in letters, digits and dashes.
    The unit's name is new each time: the scope of a process that has just ended may still be
    there."""
    if not rules():
        return
    try:
        await _call(arguments(f"weft-{name}-{secrets.token_hex(3)}.scope", name, pid))
    except OperationFailed as error:
        log.warning("scope.not_made name=%s cause=%s", name, error)


def place(name: str) -> Path:
    """The control group of a delegated scope, seen from the root of version 2's hierarchy."""
    return Path(SLICE, f"weft-{name}.scope")


class DelegatedScope:
    """A scope for many processes, in groups that its owner makes. While it would be empty a process
    that sleeps keeps it."""

    def __init__(self, name: str) -> None:
        """`name`: as for `move`."""
        self._name, self._place = name, place(name)
        self._making = asyncio.Lock()

    async def keep(self) -> bool:
        """Makes the scope if it is not there. Whether it is there now: if not, it is logged."""
        async with self._making:
            if self._is_populated():
                return True
            try:
                await self._make()
            except OperationFailed as error:
                log.warning("scope.not_made name=%s cause=%s", self._name, error)
                return False
        return True

    def adopt(self, pid: int) -> None:
        """Moves a process into the scope. Raises `OperationFailed`."""
        leaf = CGROUPS / self._place / _LEAF
        try:
            leaf.mkdir(exist_ok=True)
            (leaf / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise OperationFailed(
                f"cannot move process {pid} to {leaf}: {cause_of(error)}"
            ) from error

    def _is_populated(self) -> bool:
        try:
            return "populated 1" in (CGROUPS / self._place / "cgroup.events").read_text()
        except OSError:
            return False

    async def _make(self) -> None:
        keeper = spawn(_KEEPER, {})
        try:
            await _call(arguments(self._place.name, self._name, keeper.pid, delegated=True))
            await self._moved(keeper)
            self.adopt(keeper.pid)
        except BaseException:
            keeper.kill_and_reap()
            raise
        finally:
            keeper.close()

    async def _moved(self, keeper: Process) -> None:
        for _ in range(_MOVE_TRIES):
            if self._place.name in Path(f"/proc/{keeper.pid}/cgroup").read_text():
                return
            await asyncio.sleep(_MOVE_PAUSE)
        raise OperationFailed(f"systemd does not start {self._place.name}")


async def _call(argv: list[str]) -> None:
    output = await run(argv)
    if output.code != 0:
        raise OperationFailed(output.text)
