"""The system calls that a container may make: Docker's default profile, resolved for one container.

`profiles/seccomp.json` is moby's own file, unchanged (`profiles/NOTICE`). Each rule names the
capabilities, architectures and kernels for which it holds, while the OCI runtime needs a list
without conditions. So this file evaluates the rules, as moby's `setupSeccomp` does
(github.com/moby/profiles, seccomp/seccomp_linux.go): a rule holds if all its includes are met and
none of its excludes. Calls that no rule names are refused with EPERM.

One difference: the table of x32 is left out (`_UNUSED_ARCHITECTURE`).
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from weft.model.seccomp_profile import Condition, Profile, Rule

PROFILE = Path(__file__).with_name("profiles") / "seccomp.json"
_FILTERS = "proc/sys/kernel/seccomp/actions_avail"
"""Exists if the kernel has CONFIG_SECCOMP_FILTER."""

_UNUSED_ARCHITECTURE = "SCMP_ARCH_X32"
"""All system calls of x32 are refused: hardly any kernel has them, and a filter for them takes runc
25 ms at each start of a container."""

Kernel = tuple[int, int]
"""Version and patch level: (6, 1)."""


class _Architecture(NamedTuple):
    rules: str
    """The name in the conditions of rules."""
    table: str | None
    """The name in libseccomp. None: the file has no table for the architecture, and the runtime
    uses its native one."""


_ARCHITECTURES = {
    "x86_64": _Architecture("amd64", "SCMP_ARCH_X86_64"),
    "aarch64": _Architecture("arm64", "SCMP_ARCH_AARCH64"),
    "riscv64": _Architecture("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": _Architecture("s390x", "SCMP_ARCH_S390X"),
    "loongarch64": _Architecture("loongarch64", None),
    "ppc64le": _Architecture("ppc64le", None),
    "armv7l": _Architecture("arm", None),
    "i686": _Architecture("x86", None),
}
"""By the machine name of uname(2)."""


def load_profile() -> Profile:
    """The profile that Weft ships."""
    return msgspec.json.decode(PROFILE.read_bytes(), type=Profile)


def kernel_has_filters(root: Path = Path("/")) -> bool:
    return (root / _FILTERS).exists()


def kernel_version(release: str) -> Kernel:
    """The version from a release name of uname(2), `6.1.0-13-amd64`. Raises `ValueError`."""
    version, level = release.replace("-", ".").split(".")[:2]
    return int(version), int(level)


def resolve(
    profile: Profile, capabilities: Collection[str], machine: str, kernel: Kernel
) -> dict[str, Any]:
    """`linux.seccomp` of the OCI runtime specification for a container whose bounding set is
    `capabilities`."""
    architecture = _ARCHITECTURES.get(machine, _Architecture(machine, None))
    document: dict[str, Any] = {
        "defaultAction": profile.default_action,
        "syscalls": [
            _rule_document(rule)
            for rule in profile.syscalls or ()
            if _includes(rule.includes, architecture.rules, capabilities, kernel)
            and not _excludes(rule.excludes, architecture.rules, capabilities, kernel)
        ],
    }
    names = [
        name
        for table in profile.arch_map or ()
        if table.architecture == architecture.table
        for name in (table.architecture, *(table.sub_architectures or ()))
        if name != _UNUSED_ARCHITECTURE
    ]
    names += profile.architectures or ()
    if profile.default_errno_ret is not None:
        document["defaultErrnoRet"] = profile.default_errno_ret
    return document | ({"architectures": names} if names else {})


def _rule_document(rule: Rule) -> dict[str, Any]:
    document: dict[str, Any] = {"names": rule.calls, "action": rule.action}
    if rule.errno_ret is not None:
        document["errnoRet"] = rule.errno_ret
    return document | ({"args": rule.args} if rule.args else {})


def _includes(
    condition: Condition, architecture: str, capabilities: Collection[str], kernel: Kernel
) -> bool:
    """Holds if every part of the condition is met; an empty condition holds."""
    return (
        (not condition.arches or architecture in condition.arches)
        and all(name in capabilities for name in condition.caps)
        and (not condition.min_kernel or kernel >= kernel_version(condition.min_kernel))
    )


def _excludes(
    condition: Condition, architecture: str, capabilities: Collection[str], kernel: Kernel
) -> bool:
    """Holds if any part of the condition is met; an empty condition does not hold."""
    return (
        architecture in condition.arches
        or any(name in capabilities for name in condition.caps)
        or (bool(condition.min_kernel) and kernel >= kernel_version(condition.min_kernel))
    )
