"""Control groups of the lab: one for each host in every hierarchy of the machine, version 1, 2 or
both.

    <hierarchy>/weft-lab/node1         what node1 sees as the root of its hierarchy
    <hierarchy>/weft-lab/node1/init    its own processes; in version 2 a group with controllers may
                                       hold none itself
    <hierarchy>/weft-lab/node1/…       what the runtime makes for containers

They say which processes are the lab's even when every record is lost.
"""

import contextlib
import os
import time
from pathlib import Path
from typing import NamedTuple

from weft.errors import OperationFailed, cause_of
from weft.lab.processes import Process, identify

INIT = "init"


class Hierarchy(NamedTuple):
    path: Path
    """Where the machine has it mounted."""
    kind: str
    """`cgroup` (version 1) or `cgroup2`."""
    options: str
    """What a second mount of the same hierarchy must name: controllers, or `name=…`."""


def hierarchies() -> list[Hierarchy]:
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, options, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            generic = ("rw", "ro", "relatime", "nosuid", "nodev", "noexec")
            wanted = (
                []
                if kind == "cgroup2"
                else [option for option in options.split(",") if option not in generic]
            )
            found.append(Hierarchy(Path(path), kind, ",".join(wanted)))
    return found


def create(group: str) -> None:
    """`weft-lab/node1` and its `init` in every hierarchy. Raises `OperationFailed`."""
    for hierarchy in hierarchies():
        path = hierarchy.path
        for part in (*Path(group).parts, INIT):
            path /= part
            try:
                path.mkdir(mode=0o755, exist_ok=True)
            except OSError as error:
                raise OperationFailed(
                    f"cannot create control group {path}: {cause_of(error)}"
                ) from error
            _copy_cpuset(path)


def enter(group: str) -> None:
    """Moves the calling process. Raises `OSError`."""
    for hierarchy in hierarchies():
        (hierarchy.path / group / "cgroup.procs").write_text("0")


def delegate(group: str) -> None:
    """Version 2: the host's runtime may use every controller that the machine gives to its root's
    children."""
    for hierarchy in hierarchies():
        if hierarchy.kind == "cgroup2":
            _enable_controllers(hierarchy.path / Path(group).parent)
            _enable_controllers(hierarchy.path / group)


def processes(group: str) -> set[Process]:
    """All that are in the group or below it, in any hierarchy."""
    pids: set[int] = set()
    for hierarchy in hierarchies():
        for directory, _, _ in os.walk(hierarchy.path / group):
            with contextlib.suppress(OSError):
                pids.update(map(int, (Path(directory) / "cgroup.procs").read_text().split()))
    return {process for process in map(identify, pids) if process is not None}


def remove(group: str, seconds: float = 5) -> None:
    """With everything below it. Raises `OperationFailed` if processes stay in it for that long."""
    deadline = time.monotonic() + seconds
    for hierarchy in hierarchies():
        for directory, _, _ in os.walk(hierarchy.path / group, topdown=False):
            _remove_one(Path(directory), deadline)


def _remove_one(path: Path, deadline: float) -> None:
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise OperationFailed(
                    f"cannot remove control group {path}: {cause_of(error)}"
                ) from error
            time.sleep(
                0.01
            )  # a process that was killed leaves its group only when the kernel has taken it apart
        else:
            return


def _enable_controllers(path: Path) -> None:
    for controller in (path / "cgroup.controllers").read_text().split():
        with contextlib.suppress(
            OSError
        ):  # one that cannot be had is missed by the runtime, which names it
            (path / "cgroup.subtree_control").write_text(f"+{controller}")


def _copy_cpuset(path: Path) -> None:
    """Version 1: a new cpuset is empty, and an empty one takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = path / name
        if (
            file.exists()
            and "cgroup.controllers" not in os.listdir(path)
            and not file.read_text().strip()
        ):
            file.write_text((path.parent / name).read_text())
