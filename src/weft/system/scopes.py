"""Gives a process that outlives the daemon a unit of its own, where systemd rules the host.

Containers' monitors, etcd and the encryption engine are started by the daemon, so they would be
processes of its unit: systemd would complain about them at each stop and start, count their memory
as the daemon's, and end them with the unit if somebody changed how it is ended. Each gets a scope
in `weft.slice` instead (systemd.scope(5)), which ends with the process:

    systemd-cgls -u weft.slice

A process that cannot be moved runs where it is. On hosts without systemd nothing is done.
"""

import logging
import secrets
import shutil
from pathlib import Path

from weft.errors import OperationFailed
from weft.system.process import run

log = logging.getLogger(__name__)

SLICE = "weft.slice"
SERVICE = "weft.service"
_SYSTEMD = Path("/run/systemd/system")
"""Is there while systemd is the host's init: sd_booted(3)."""
_CALL = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)


def arguments(name: str, pid: int, distinct: str) -> list[str]:
    """The command that moves the process. `distinct` makes the unit's name new: the scope of a
    process that has just ended may still be there.

    The scope is before the daemon's unit, so that at a shutdown, where the order is reversed, the
    daemon ends first, and tells the swarm while the containers still run."""
    properties = [
        ("Description", "s", f"Weft: {name}"),
        ("PIDs", "au", "1", str(pid)),
        ("Slice", "s", SLICE),
        ("CollectMode", "s", "inactive-or-failed"),
        ("Before", "as", "1", SERVICE),
    ]
    unit = f"weft-{name}-{distinct}.scope"
    return [
        "busctl", "--quiet", "call", *_CALL, "StartTransientUnit", "ssa(sv)a(sa(sv))",
        unit, "fail", str(len(properties)), *(word for words in properties for word in words), "0",
    ]  # fmt: skip


async def move(name: str, pid: int) -> None:
    """Moves a process into a scope of its own. `name`: what it is, in letters, digits and
    dashes."""
    if not _SYSTEMD.exists() or shutil.which("busctl") is None:
        return
    try:
        output = await run(arguments(name, pid, secrets.token_hex(3)))
    except OperationFailed as error:
        log.warning("scope.not_made name=%s cause=%s", name, error)
        return
    if output.code != 0:
        log.warning("scope.not_made name=%s cause=%s", name, output.text)
