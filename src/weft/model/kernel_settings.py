"""What a container may set of its kernel: limits of its processes, and sysctls of its own
namespaces."""

from collections.abc import Iterable

from weft.errors import InvalidArgument, clip
from weft.model.service import Ulimit

_IN_ORDER = (
    "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks",
    "sigpending", "msgqueue", "nice", "rtprio", "rttime",
)  # fmt: skip
ULIMITS = {name: number for number, name in enumerate(_IN_ORDER)}
"""With their numbers in asm-generic/resource.h."""
_IPC_SYSCTLS = frozenset(
    f"kernel.{name}"
    for name in (
        "msgmax",
        "msgmnb",
        "msgmni",
        "sem",
        "shmall",
        "shmmax",
        "shmmni",
        "shm_rmid_forced",
    )
)
_HOST_NAME, DOMAIN_NAME = "kernel.hostname", "kernel.domainname"
_QUEUES, _NETWORK = "fs.mqueue.", "net."


def check_ulimit(limit: Ulimit) -> None:
    """Raises `InvalidArgument` with Docker's text."""
    if limit.name not in ULIMITS:
        raise InvalidArgument(f"invalid ulimit type: {clip(limit.name)}")
    if 0 <= limit.hard < limit.soft:
        raise InvalidArgument(
            f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} >"
            f" {limit.hard}"
        )


def check_sysctls(names: Iterable[str], *, host_network: bool) -> None:
    """Refuses sysctls that the container would set for others. Source: runc
    `libcontainer/configs/validate`, and what containers have namespaces for. Raises
    `InvalidArgument`."""
    for name in sorted(names):
        # The kernel takes slashes as well as dots.
        dotted = name.replace("/", ".")
        if dotted.startswith(_NETWORK):
            if host_network:
                raise InvalidArgument(
                    f"cannot set sysctl {clip(name)}: not allowed in the host's network namespace"
                )
        elif dotted == _HOST_NAME:
            raise InvalidArgument(f"cannot set sysctl {_HOST_NAME}: use the container's hostname")
        elif not (dotted in _IPC_SYSCTLS or dotted == DOMAIN_NAME or dotted.startswith(_QUEUES)):
            raise InvalidArgument(f'sysctl "{clip(name)}" is not in a separate kernel namespace')
