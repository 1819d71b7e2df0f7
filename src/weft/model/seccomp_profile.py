"""A profile of the system calls that a container may make, in Docker's format: rules with conditions.

`runtime/seccomp.py` resolves the conditions for one container. Source of the format: moby
github.com/moby/profiles, seccomp/seccomp.go."""

import re
from typing import Any, Literal

import msgspec

from weft.errors import InvalidArgument

MAX_BYTES = 256 << 10
"""Docker's own profile has some 12 KiB."""
_VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}")

Action = Literal[
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
]


class Condition(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: str = ""
    """The version and patch level, `4.8`."""

    def __post_init__(self) -> None:
        if self.min_kernel and not _VERSION.fullmatch(self.min_kernel):
            raise ValueError(f"minKernel {self.min_kernel[:40]!r} is not VERSION.PATCHLEVEL")


class Rule(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    action: Action
    names: tuple[str, ...] = ()
    name: str = ""
    """An older way to write `names`."""
    errno_ret: int | None = None
    args: tuple[dict[str, Any], ...] | None = None
    comment: str = ""
    includes: Condition = Condition()
    excludes: Condition = Condition()

    @property
    def calls(self) -> tuple[str, ...]:
        return self.names or (self.name,)


class Table(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    architecture: str
    sub_architectures: tuple[str, ...] | None = None


class Profile(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Refuses unknown fields: an unknown condition must not be ignored."""

    default_action: Action
    default_errno_ret: int | None = None
    arch_map: tuple[Table, ...] | None = None
    architectures: tuple[str, ...] | None = None
    """Instead of `arch_map`: architectures of libseccomp, for any machine."""
    syscalls: tuple[Rule, ...] | None = None


def profile_from(data: bytes) -> Profile:
    """A user's profile. Raises `InvalidArgument`."""
    if len(data) > MAX_BYTES:
        raise InvalidArgument(f"the seccomp profile has more than {MAX_BYTES} bytes")
    try:
        profile = msgspec.json.decode(data, type=Profile)
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"decoding seccomp profile failed: {error}") from None
    if profile.arch_map and profile.architectures:
        raise InvalidArgument("both 'architectures' and 'archMap' are specified in the profile")
    for rule in profile.syscalls or ():
        if rule.name and rule.names:
            raise InvalidArgument("both 'name' and 'names' are specified in a rule of the profile")
        if not all(rule.calls):
            raise InvalidArgument("a rule of the seccomp profile names no system call")
    return profile
