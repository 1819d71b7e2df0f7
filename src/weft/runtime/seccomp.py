"""The system calls that a container may make: Docker's default profile, resolved for one container.

`profiles/seccomp.json` is moby's own file, unchanged (`profiles/NOTICE`). Each of its rules says
for which capabilities, architectures and kernels it holds; the OCI runtime wants a list without
conditions. So a rule is taken or left here, as in moby's `setupSeccomp` (github.com/moby/profiles,
seccomp/seccomp_linux.go): it holds if everything that it includes is there and nothing that it
excludes. What no rule names is refused with EPERM.

One difference: the table of x32 is left out (`_UNUSED_ARCHITECTURE`).
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

PROFILE = Path(__file__).with_name("profiles") / "seccomp.json"
_FILTERS = "proc/sys/kernel/seccomp/actions_avail"
"""There where the kernel has CONFIG_SECCOMP_FILTER."""

_UNUSED_ARCHITECTURE = "SCMP_ARCH_X32"
"""Its system calls are refused outright: hardly a kernel has them, and their filter takes runc 25
ms of each container's start."""

Kernel = tuple[int, int]
"""Version and patch level: (6, 1)."""


class _Architecture(NamedTuple):
    rules: str
    """As the conditions of rules name it."""
    table: str | None
    """As libseccomp names it; None: the file has no table for it, and the runtime takes its native
    one."""


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
"""By the machine as uname(2) names it."""


class _Condition(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: str = ""


class _Rule(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[dict[str, Any], ...] = ()
    comment: str = ""
    includes: _Condition = _Condition()
    excludes: _Condition = _Condition()


class _Table(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class Profile(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A condition that is not known here must not be passed over: unknown fields are refused."""

    default_action: str
    default_errno_ret: int
    arch_map: tuple[_Table, ...]
    syscalls: tuple[_Rule, ...]


def load_profile() -> Profile:
    """The one that Weft ships."""
    return msgspec.json.decode(PROFILE.read_bytes(), type=Profile)


def kernel_has_filters(root: Path = Path("/")) -> bool:
    return (root / _FILTERS).exists()


def kernel_version(release: str) -> Kernel:
    """Of a release as uname(2) names it, `6.1.0-13-amd64`. Raises `ValueError`."""
    version, level = release.replace("-", ".").split(".")[:2]
    return int(version), int(level)


def resolve(
    profile: Profile, capabilities: Collection[str], machine: str, kernel: Kernel
) -> dict[str, Any]:
    """`linux.seccomp` of the OCI runtime specification for a container whose bounding set is
    `capabilities`."""
    architecture = _ARCHITECTURES.get(machine, _Architecture(machine, None))
    document = {
        "defaultAction": profile.default_action,
        "defaultErrnoRet": profile.default_errno_ret,
        "syscalls": [
            _rule_document(rule)
            for rule in profile.syscalls
            if _includes(rule.includes, architecture.rules, capabilities, kernel)
            and not _excludes(rule.excludes, architecture.rules, capabilities, kernel)
        ],
    }
    names = [
        name
        for table in profile.arch_map
        if table.architecture == architecture.table
        for name in (table.architecture, *(table.sub_architectures or ()))
        if name != _UNUSED_ARCHITECTURE
    ]
    return document | ({"architectures": names} if names else {})


def _rule_document(rule: _Rule) -> dict[str, Any]:
    document: dict[str, Any] = {"names": rule.names, "action": rule.action}
    if rule.errno_ret is not None:
        document["errnoRet"] = rule.errno_ret
    return document | ({"args": rule.args} if rule.args else {})


def _includes(
    condition: _Condition, architecture: str, capabilities: Collection[str], kernel: Kernel
) -> bool:
    """Everything that it names is there; one that names nothing holds."""
    return (
        (not condition.arches or architecture in condition.arches)
        and all(name in capabilities for name in condition.caps)
        and (not condition.min_kernel or kernel >= kernel_version(condition.min_kernel))
    )


def _excludes(
    condition: _Condition, architecture: str, capabilities: Collection[str], kernel: Kernel
) -> bool:
    """Anything that it names is there; one that names nothing does not hold."""
    return (
        architecture in condition.arches
        or any(name in capabilities for name in condition.caps)
        or (bool(condition.min_kernel) and kernel >= kernel_version(condition.min_kernel))
    )
