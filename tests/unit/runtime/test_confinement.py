"""What a container is kept in by: Docker's lists, and what this host has of them."""

import asyncio
from pathlib import Path

import pytest

from weft.model.privileges import Privileges
from weft.model.service import ContainerSpec
from weft.runtime.confinement import NO_FILTER, READ_ONLY_PATHS, Confiner, masked_paths
from weft.runtime.spec import DEFAULT_CAPABILITIES, capability_set

MOBY_MASKED = {
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
    "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
}  # fmt: skip
"""moby 28, oci/defaults.go."""
MOBY_READ_ONLY = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
MOBY_CAPABILITIES = {
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}  # fmt: skip
"""moby 28, oci/caps/defaults.go."""


def host(root: Path, *, processors: int = 0, filters: bool = True) -> Path:
    """A host's /proc and /sys, as far as they are looked at."""
    for number in range(processors):
        (root / f"sys/devices/system/cpu/cpu{number}/thermal_throttle").mkdir(parents=True)
    (root / "sys/devices/system/cpu/cpufreq/thermal_throttle").mkdir(parents=True)
    if filters:
        (root / "proc/sys/kernel/seccomp").mkdir(parents=True)
        (root / "proc/sys/kernel/seccomp/actions_avail").touch()
    return root


def test_the_lists_are_the_originals(tmp_path: Path) -> None:
    assert set(masked_paths(tmp_path)) == MOBY_MASKED
    assert set(READ_ONLY_PATHS) == MOBY_READ_ONLY
    assert set(DEFAULT_CAPABILITIES) == set(capability_set((), ())) == MOBY_CAPABILITIES


def test_counters_of_the_processors_that_there_are_are_hidden(tmp_path: Path) -> None:
    extra = [
        path for path in masked_paths(host(tmp_path, processors=11)) if path not in MOBY_MASKED
    ]
    assert extra == [
        f"/sys/devices/system/cpu/cpu{number}/thermal_throttle" for number in range(11)
    ]


@pytest.mark.parametrize("own", [False, True])
def test_a_container_made_now_gets_all_of_it(tmp_path: Path, own: bool) -> None:
    confiner = Confiner(tmp_path, cgroup_namespaces=own, root=host(tmp_path, processors=1))
    found = asyncio.run(confiner.confine(ContainerSpec(image="web")))
    assert set(found.masked_paths) == {
        *MOBY_MASKED,
        "/sys/devices/system/cpu/cpu0/thermal_throttle",
    }
    assert set(found.read_only_paths) == MOBY_READ_ONLY
    assert (found.apparmor_profile, found.cgroup_namespace) == ("", own)
    assert confiner.warnings == ()
    seccomp = confiner.filter(DEFAULT_CAPABILITIES)
    assert seccomp is not None
    assert seccomp["defaultAction"] == "SCMP_ACT_ERRNO"


@pytest.mark.parametrize(
    ("mode", "version_2", "own"),
    [("private", False, True), ("private", True, True), ("host", False, False), ("", False, False)],
)
def test_a_cgroup_namespace_that_the_user_asks_for(
    tmp_path: Path, mode: str, version_2: bool, own: bool
) -> None:
    root = host(tmp_path, processors=1)
    confiner = Confiner(tmp_path, cgroup_namespaces=version_2, root=root)
    found = asyncio.run(confiner.confine(ContainerSpec(image="web"), mode))
    assert (found.cgroup_namespace, found.cgroup_version_1) == (own, not version_2)


def test_a_privileged_container_is_not_confined(tmp_path: Path) -> None:
    """A profile of the user's own holds all the same, as in Docker."""
    confiner = Confiner(tmp_path, cgroup_namespaces=False, root=host(tmp_path, processors=1))
    privileges = Privileges(privileged=True)
    found = asyncio.run(confiner.confine(ContainerSpec(image="web", privileges=privileges)))
    assert (found.masked_paths, found.read_only_paths) == ((), ())
    assert confiner.filter(DEFAULT_CAPABILITIES, privileges) is None
    own = b'{"defaultAction": "SCMP_ACT_ALLOW"}'
    custom = Privileges(privileged=True, seccomp="custom", seccomp_profile=own)
    assert confiner.filter(DEFAULT_CAPABILITIES, custom) is not None


def test_a_kernel_without_filters_is_warned_of(tmp_path: Path) -> None:
    confiner = Confiner(tmp_path, cgroup_namespaces=False, root=host(tmp_path, filters=False))
    assert confiner.filter(DEFAULT_CAPABILITIES) is None
    assert confiner.warnings == (NO_FILTER,)
