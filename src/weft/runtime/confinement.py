"""The confinement of this host's containers, apart from namespaces and capabilities: hidden and
read-only paths of the kernel, the seccomp filter, the AppArmor profile. All are Docker's defaults;
only this file knows the lists.

Source of the lists: moby 28, `oci/defaults.go`. `Confiner.confine` gives the confinement for a
container that is made now. The container keeps this value, so `docker inspect` shows the
confinement in force even after an update of the daemon.
"""

import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from weft.errors import InvalidArgument, OperationFailed
from weft.model.container import Confinement
from weft.model.privileges import Privileges
from weft.model.seccomp_profile import profile_from
from weft.model.service import ContainerSpec
from weft.runtime.apparmor import AppArmor
from weft.runtime.seccomp import kernel_has_filters, kernel_version, load_profile, resolve

READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
MASKED_PATHS = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
    "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
"""`masked_paths` adds each processor's throttling counters: like /proc/interrupts they reveal what
other users type (GHSA-6fw5-f8r9-fgfm)."""
_THROTTLING = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"

UNCONFINED = "unconfined"
INIT_PROGRAMS = ("docker-init", "tini-static", "catatonit")

_DEFAULT = Privileges()

NO_FILTER = (
    "WARNING: this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER): containers may make any"
    " system call"
)


def masked_paths(root: Path = Path("/")) -> tuple[str, ...]:
    """Adds the paths of the processors that exist. `root`: root of the host's file system."""
    found = [f"/{path.relative_to(root)}" for path in root.glob(_THROTTLING)]
    return (*MASKED_PATHS, *sorted(found, key=_processor))


def _processor(path: str) -> int:
    return int(re.sub(r"\D", "", path))


class Confiner:
    """The confinement on this host. The host's features are determined once, the AppArmor profile
    is checked for each container."""

    def __init__(self, directory: Path, *, cgroup_namespaces: bool, root: Path = Path("/")) -> None:
        """`directory`: holds a short-lived file."""
        host = os.uname()
        self._machine, self._kernel = host.machine, kernel_version(host.release)
        self._profile = load_profile() if kernel_has_filters(root) else None
        self._masked = masked_paths(root)
        self._cgroup_namespaces = cgroup_namespaces
        self.apparmor = AppArmor(directory, root)

    @property
    def filters(self) -> bool:
        return self._profile is not None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for `docker info`."""
        missing = self.apparmor.warning
        return (*([] if self.filters else [NO_FILTER]), *([missing] if missing else []))

    async def confine(self, spec: ContainerSpec, cgroup_mode: str = "") -> Confinement:
        """`cgroup_mode`: see `NamespaceModes.cgroup`; empty: as is usual on this host. Raises
        `OperationFailed` if the AppArmor profile is needed and cannot be loaded, or the host has no
        init program."""
        privileged = spec.privileges.privileged
        is_free = privileged or spec.privileges.apparmor == "disabled"
        open_paths = privileged or spec.privileges.system_paths == "unconfined"
        profile = "" if is_free and not self.apparmor.in_use else await self.apparmor.profile()
        return Confinement(
            masked_paths=() if open_paths else self._masked,
            read_only_paths=() if open_paths else READ_ONLY_PATHS,
            apparmor_profile=profile and (UNCONFINED if is_free else profile),
            no_new_privileges=spec.privileges.no_new_privileges,
            init=find_init() if spec.init else "",
            cgroup_namespace=cgroup_mode == "private" or self._cgroup_namespaces,
            cgroup_version_1=not self._cgroup_namespaces,
        )

    def filter(
        self, capabilities: Collection[str], privileges: Privileges = _DEFAULT
    ) -> dict[str, Any] | None:
        """`linux.seccomp` for a container with these capabilities; None if the user asked for no
        filter, or the kernel has none. Raises `InvalidArgument`, also for a profile of the user's
        on such a kernel."""
        is_free = privileges.privileged and privileges.seccomp == "default"
        if is_free or privileges.seccomp == "unconfined":
            return None
        own = profile_from(privileges.seccomp_profile) if privileges.seccomp == "custom" else None
        if self._profile is None:
            if own is not None:
                raise InvalidArgument(
                    "seccomp is not enabled in your kernel, cannot run a custom seccomp profile"
                )
            return None
        return resolve(own or self._profile, capabilities, self._machine, self._kernel)


def find_init() -> str:
    """A static program: it runs on the container's file system. Raises `OperationFailed`."""
    for name in INIT_PROGRAMS:
        if found := shutil.which(name):
            return found
    raise OperationFailed(
        f"ContainerSpec.Init: this host has no init program ({', '.join(INIT_PROGRAMS)}): install"
        " the package tini"
    )
