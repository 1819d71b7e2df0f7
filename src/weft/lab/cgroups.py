"""Control groups of the lab: one for each host in every hierarchy of the machine, version 1, 2 or
both.

    <hierarchy>/weft-lab/node1         node1 sees this as the root of its hierarchy
    <hierarchy>/weft-lab/node1/init    processes of the host itself; in version 2 a group with
                                       controllers may hold none itself
    <hierarchy>/weft-lab/node1/…       groups that the runtime makes for containers

The groups tell which processes are the lab's even when every record is lost.
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
    """Mount point on the machine."""
    kind: str
    """`cgroup` (version 1) or `cgroup2`."""
    options: str
    """Options that a second mount of the same hierarchy must name: controllers, or `name=…`."""


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
    """Makes the group and its `init` in every hierarchy. `group`: like `weft-lab/node1`. Raises
    `OperationFailed`."""
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
    """Moves the calling process into the group. Raises `OSError`."""
    for hierarchy in hierarchies():
        (hierarchy.path / group / "cgroup.procs").write_text("0")


def delegate(group: str) -> None:
    """In version 2, lets the host's runtime use every controller that the machine's root group
    gives to its children."""
    for hierarchy in hierarchies():
        if hierarchy.kind == "cgroup2":
            _enable_controllers(hierarchy.path / Path(group).parent)
            _enable_controllers(hierarchy.path / group)


def processes(group: str) -> set[Process]:
    """All processes in the group or below it, in any hierarchy."""
    pids: set[int] = set()
    for hierarchy in hierarchies():
        for directory, _, _ in os.walk(hierarchy.path / group):
            with contextlib.suppress(OSError):
                pids.update(map(int, (Path(directory) / "cgroup.procs").read_text().split()))
    return {process for process in map(identify, pids) if process is not None}


def remove(group: str, seconds: float = 5) -> None:
    """Removes the group with everything below it. Raises `OperationFailed` if processes stay in it
    for `seconds`."""
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
            # A killed process leaves its group only when the kernel has taken the process apart.
            time.sleep(0.01)
        else:
            return


def _enable_controllers(path: Path) -> None:
    for controller in (path / "cgroup.controllers").read_text().split():
        with contextlib.suppress(
            OSError
        ):  # if the runtime needs a controller that is missing, it names it
            (path / "cgroup.subtree_control").write_text(f"+{controller}")


def _copy_cpuset(path: Path) -> None:
    """In version 1, copies the parent's cpuset: a new cpuset is empty, and an empty one takes no
    process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = path / name
        if (
            file.exists()
            and "cgroup.controllers" not in os.listdir(path)
            and not file.read_text().strip()
        ):
            file.write_text((path.parent / name).read_text())
