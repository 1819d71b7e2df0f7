"""The host on which the daemon runs."""

import msgspec

from weft.model.generic import GenericResource
from weft.model.optional_limit import OptionalLimit
from weft.model.registry import USUAL, RegistrySettings


class HostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """For `docker info` and `docker version`."""

    hostname: str
    engine_id: str
    kernel: str
    operating_system: str
    os_version: str
    architecture: str
    cpus: int
    memory: int
    data_root: str
    runtime: str
    """`runc 1.1.5`"""
    conmon: str
    version: str
    started_at: int
    cgroup_version: str = "2"
    """`1` also where both versions are mounted, since the controllers are in version 1 then."""
    esp_engine: str = ""
    """The engine that encrypts: `kernel`, `userspace` or empty."""
    apparmor: bool = False
    swap_limit: bool = False
    """Whether the kernel counts the swap of control groups."""
    missing_limits: frozenset[OptionalLimit] = frozenset()
    """Limits of containers that the kernel does not have."""
    runtime_commit: str = ""
    """The version of the runtime's source."""
    seccomp: bool = False
    """Whether seccomp confines containers."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """Labels of the engine."""
    generic: tuple[GenericResource, ...] = ()
    """Generic resources of the node."""
    registries: RegistrySettings = USUAL
    warnings: tuple[str, ...] = ()
