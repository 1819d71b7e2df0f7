"""The mounts that every container has: the kernel's file systems, /dev and what lies in it, in the
form of the OCI runtime specification, with Docker's options.

Source: moby `oci/defaults.go`, and `daemon/oci_linux.go` for namespaces of the host."""

from typing import Any

from weft.model.container import ContainerConfig

SHM_SIZE = 64 << 20
"""Bytes of /dev/shm unless the user says otherwise."""
SHM, QUEUES = "/dev/shm", "/dev/mqueue"


def system_mounts(config: ContainerConfig) -> list[dict[str, Any]]:
    """A privileged container may write to the kernel's objects and control groups. One in the
    host's IPC namespace sees the host's shared memory; its message queues are the namespace's."""

    def mount(target: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": source or kind, "options": options}

    safe = ("nosuid", "noexec", "nodev")
    kernel = safe if config.spec.privileges.privileged else (*safe, "ro")
    size = f"size={config.shm_size or SHM_SIZE}"
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
        mounts.append(mount(SHM, "bind", "rbind", *safe, source=SHM))
    elif config.has_shm:
        mounts.append(mount(SHM, "tmpfs", *safe, "mode=1777", size, source="shm"))
    return mounts
