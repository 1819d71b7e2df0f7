"""Where the control groups of containers are, and their monitors' (conmon).

    systemd, version 2   weft.slice/weft-containers.scope/<group>   a scope that is delegated, with
                         …/monitors                                 all monitors
    else                 weft/<group>   in each hierarchy; systemd gives monitors scopes of their own

A container's group is its id, or the user's parent and its id (`ContainerConfig.group`). The
runtime makes a parent with the first container in it, and a parent goes with the last.

Version 1 has no delegation to speak of, and Docker keeps to this there, too. The runtime makes the
groups itself (`cgroupfs`), so that no container waits for systemd. A container keeps the group that
it was started in, if a later daemon chooses another one. (docs/decisions/0036)
"""

import asyncio
import glob
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from weft.errors import OperationFailed
from weft.system import scopes
from weft.system.scopes import CGROUPS, DelegatedScope

log = logging.getLogger(__name__)

_OWN = "weft"
"""At the root of each hierarchy."""
_SCOPE = "containers"
_DELEGATED = scopes.place(_SCOPE)
_TRIES, _PAUSE = 50, 0.01
"""Number of attempts to remove a group, and seconds between them."""


class ControlGroups:
    def __init__(self) -> None:
        self._scope = DelegatedScope(_SCOPE) if are_version_2() and scopes.rules() else None
        self._making = Counter[str]()
        """By its first part: groups that the runtime is making now."""

    async def parent(self) -> str:
        """The group below which a container's is to be made, as the OCI runtime wants it."""
        if self._scope is not None and await self._scope.keep():
            return f"/{_DELEGATED}"
        return f"/{_OWN}"

    @contextmanager
    def making(self, group: str) -> Iterator[None]:
        """Within this the runtime makes the group: its parents are not removed meanwhile, although
        they may still be empty."""
        first = _first(group)
        self._making[first] += 1
        try:
            yield
        finally:
            self._making[first] -= 1

    async def remove(self, group: str) -> None:
        """Removes a container's groups, with all processes in them, and then the parents that have
        no container any more."""
        for path in groups_of(group):
            await _remove(path)
        if not self._making[_first(group)]:
            _remove_parents(group)

    async def adopt_monitor(self, id: str, pid: int) -> None:
        """Takes the conmon of a container out of the daemon's group. If that fails it stays
        there."""
        if self._scope is None:
            await scopes.move(f"conmon-{id[:12]}", pid)
            return
        try:
            self._scope.adopt(pid)
        except OperationFailed as error:
            log.warning("monitor.not_moved container=%s cause=%s", id[:12], error)


def are_version_2(cgroups: Path = CGROUPS) -> bool:
    return (cgroups / "cgroup.controllers").exists()


def group_of(group: str, controller: str, cgroups: Path = CGROUPS) -> Path:
    """The control group of a container, which may be gone. `group`: see `ContainerConfig.group`.
    `controller`: version 1 has a hierarchy for each."""
    hierarchy = cgroups if are_version_2(cgroups) else cgroups / controller
    found = hierarchy / _DELEGATED / group
    return found if found.exists() else hierarchy / _OWN / group


def groups_of(group: str) -> list[Path]:
    """All control groups of a container that there are, of whichever daemon."""
    tail = glob.escape(group)
    places = (f"{_DELEGATED}/{tail}", f"{_OWN}/{tail}", f"*/{_OWN}/{tail}")
    return [path for place in places for path in CGROUPS.glob(place)]


def _first(group: str) -> str:
    return group.partition("/")[0]


def _remove_parents(group: str) -> None:
    """From the innermost out, while they are empty."""
    while parent := group.rpartition("/")[0]:
        for path in groups_of(parent):
            with suppress(OSError):
                path.rmdir()
        group = parent


async def _remove(path: Path) -> None:
    """Kills the processes in a group of a container that the runtime could not make completely."""
    for _ in range(_TRIES):
        try:
            for pid in (path / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            path.rmdir()
            break
        except FileNotFoundError:
            break
        except (OSError, ValueError):
            # A group is busy until the kernel has released its last process.
            await asyncio.sleep(_PAUSE)
