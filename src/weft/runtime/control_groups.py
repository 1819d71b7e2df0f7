"""Where the control groups of containers are, and their monitors' (conmon).

    systemd, version 2   weft.slice/weft-containers.scope/<id>   a scope that is delegated, with
                         …/monitors                              all monitors
    else                 weft/<id>   in each hierarchy; systemd gives monitors scopes of their own

Version 1 has no delegation to speak of, and Docker keeps to this there, too. The runtime makes the
groups itself (`cgroupfs`), so that no container waits for systemd. A container keeps the group that
it was started in, if a later daemon chooses another one. (docs/decisions/0036)
"""

import logging
from pathlib import Path

from weft.errors import OperationFailed
from weft.system import scopes
from weft.system.scopes import CGROUPS, DelegatedScope

log = logging.getLogger(__name__)

_OWN = "weft"
"""At the root of each hierarchy."""
_SCOPE = "containers"
_DELEGATED = scopes.place(_SCOPE)


class ControlGroups:
    def __init__(self) -> None:
        self._scope = DelegatedScope(_SCOPE) if are_version_2() and scopes.rules() else None

    async def parent(self) -> str:
        """The group below which a container's is to be made, as the OCI runtime wants it."""
        if self._scope is not None and await self._scope.keep():
            return f"/{_DELEGATED}"
        return f"/{_OWN}"

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


def group_of(id: str, controller: str, cgroups: Path = CGROUPS) -> Path:
    """The control group of a container, which may be gone. `controller`: version 1 has a hierarchy
    for each."""
    hierarchy = cgroups if are_version_2(cgroups) else cgroups / controller
    found = hierarchy / _DELEGATED / id
    return found if found.exists() else hierarchy / _OWN / id


def groups_of(id: str) -> list[Path]:
    """All control groups of a container that there are, of whichever daemon."""
    places = (f"{_DELEGATED}/{id}", f"{_OWN}/{id}", f"*/{_OWN}/{id}")
    return [path for place in places for path in CGROUPS.glob(place)]
