"""The system calls that a container may make: the profile that containers-common ships, in the form that runc takes.

It is Docker's default profile, kept by the same people for Podman and CRI-O. Its rules say for which capabilities and
architectures they hold; here they are resolved for one container. Without the file containers run without a filter, and the
daemon says so when it starts.
"""

import platform
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

PROFILE = Path("/usr/share/containers/seccomp.json")
_ARCHITECTURES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}

_UNUSED_ARCHITECTURE = "SCMP_ARCH_X32"
"""Its system calls are refused outright: hardly a kernel has them, and their filter takes runc 25 ms of each container's start."""


def load_profile(path: Path = PROFILE) -> dict[str, Any] | None:
    """None if there is none, or none for this machine's architecture."""
    try:
        profile: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return profile if platform.machine() in _ARCHITECTURES and "syscalls" in profile else None


def filter_for(profile: dict[str, Any], capabilities: Collection[str], machine: str = "") -> dict[str, Any]:
    """`linux.seccomp` of the OCI runtime specification for a container with these capabilities."""
    short, native = _ARCHITECTURES[machine or platform.machine()]
    tables = [entry["subArchitectures"] for entry in profile.get("archMap", []) if entry["architecture"] == native]
    architectures = [native, *(name for table in tables for name in table or [] if name != _UNUSED_ARCHITECTURE)]
    rules = []
    for rule in profile["syscalls"]:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        if not _matches(includes, short, capabilities, default=True) or _matches(excludes, short, capabilities, default=False):
            continue
        kept = {key: rule[key] for key in ("names", "action", "args", "errnoRet") if rule.get(key) is not None}
        rules.append(kept)
    result = {"defaultAction": profile["defaultAction"], "architectures": architectures, "syscalls": rules}
    if "defaultErrnoRet" in profile:
        result["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return result


def _matches(condition: dict[str, Any], architecture: str, capabilities: Collection[str], *, default: bool) -> bool:
    """Includes hold only if all that they name is there; excludes if any is. `minKernel` is below any kernel we run on."""
    tests = []
    if condition.get("arches"):
        tests.append(architecture in condition["arches"])
    if condition.get("caps"):
        present = [capability in capabilities for capability in condition["caps"]]
        tests.append(all(present) if default else any(present))
    if not tests:
        return default
    return all(tests) if default else any(tests)
