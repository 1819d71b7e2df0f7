"""The capabilities of Linux, by the names that users write."""

from weft.errors import InvalidArgument, clip

CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
    "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
    "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip
"""In the order of their bits in linux/capability.h."""
ALL = "CAP_ALL"
"""Stands for all of them."""


def capability(field: str, text: str) -> str:
    """`CAP_NET_RAW` for `NET_RAW`, `net_raw` or `cap_net_raw`, and `ALL` likewise. `field`: where the
    user wrote it. Raises `InvalidArgument`."""
    name = text.upper()
    full = name if name.startswith("CAP_") else f"CAP_{name}"
    if full != ALL and full not in CAPABILITIES:
        raise InvalidArgument(f"invalid {field}: unknown capability: {clip(full)!r}")
    return full
