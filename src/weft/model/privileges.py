"""What a service changes about the confinement of its containers.

Who writes it: the user, as part of the service's spec. What is in force for a container stands in
`container.Confinement`."""

from typing import Literal

import msgspec


class Privileges(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The defaults are those of Docker: the default seccomp and AppArmor profiles, and programs may
    gain privileges by executing others."""

    seccomp: Literal["default", "unconfined", "custom"] = "default"
    seccomp_profile: bytes = b""
    """The JSON of the profile, if `seccomp` is `custom` (`seccomp_profile.py`)."""
    apparmor: Literal["default", "disabled"] = "default"
    selinux_disabled: bool = False
    """Kept as the user wrote it: Weft labels no container for SELinux in any case."""
    no_new_privileges: bool = False
    privileged: bool = False
    """Whether the container gets all capabilities and devices, the kernel's files as the host sees
    them, no AppArmor profile, and no seccomp filter but one of the user's own."""
    system_paths: Literal["default", "unconfined"] = "default"
    """Whether the kernel's files that tell of the host are hidden and read-only."""
