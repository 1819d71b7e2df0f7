"""The mounts that every container has: the kernel's file systems, /dev and what lies in it, in the
form of the OCI runtime specification, with Docker's options.

Source: moby `oci/defaults.go`, and `daemon/oci_linux.go` for namespaces of the host."""

from pathlib import Path
from typing import Any

from weft.model.container import ContainerConfig
from weft.runtime.record import Directory

SHM_SIZE = 64 << 20
"""Bytes of /dev/shm unless the user says otherwise."""
SHM, QUEUES = "/dev/shm", "/dev/mqueue"


def shm_size(config: ContainerConfig) -> int:
    """Bytes."""
    return config.shm_size or SHM_SIZE


def system_mounts(config: ContainerConfig, containers: Path) -> list[dict[str, Any]]:
    """A privileged container may write to the kernel's objects and control groups. One in the IPC
    namespace of the host or of another container sees its shared memory, too; the message queues
    are the namespace's own. `containers`: directory of all containers' directories."""

    def mount(target: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": source or kind, "options": options}

    safe = ("nosuid", "noexec", "nodev")
    kernel = safe if config.spec.privileges.privileged else (*safe, "ro")
    mounts = [
        mount("/proc", "proc", *safe),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount(
            "/dev/pts",
            "devpts",
            "nosuid",
            "noexec",
            "newinstance",
            "ptmxmode=0666",
            "mode=0620",
            "gid=5",
        ),
        mount("/sys", "sysfs", *kernel),
        mount("/sys/fs/cgroup", "cgroup", *kernel),
    ]
    mounts.append(mount(QUEUES, "mqueue", *safe))
    if config.shared.get("ipc") == "":
        mounts.append(mount(SHM, "bind", "rbind", "rprivate", source=SHM))
    elif config.shm_owner:
        place = Directory(containers / config.shm_owner).shm
        mounts.append(mount(SHM, "bind", "rbind", "rprivate", source=str(place)))
    elif config.has_shm:
        size = f"size={shm_size(config)}"
        mounts.append(mount(SHM, "tmpfs", *safe, "mode=1777", size, source="shm"))
    return mounts
