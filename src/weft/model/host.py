"""What the daemon knows of the host that it runs on."""

import msgspec


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
    """`1` also where both are mounted: the controllers are where the first is."""
    esp_engine: str = ""
    """What seals encrypted networks: `kernel`, `userspace` or nothing."""
    apparmor: bool = False
    seccomp: bool = False
    """Containers are confined by it."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """The engine's."""
    warnings: tuple[str, ...] = ()
