"""Ways out of a container, and what must become of each: the list that `test_escapes.py` tries, as
root and as uid 1000, with default settings.

A row's name is that of an attempt in `escapes/`. Of several answers, `A|B`, any is right: the order
of the kernel's checks, its version and its configuration decide which. Beside the names of errno an
answer may be

    contained   it is allowed, as in Docker, and leads nowhere
    hidden      it is there, and empty
    none        nothing of the kind was found
"""

from typing import NamedTuple


class Row(NamedTuple):
    name: str
    root: str
    user: str
    """uid 1000, who has no capability."""
    why: str
    """What keeps it in, or which hole it once was."""


def _rows(why: str, answer: str, *names: str, user: str = "") -> list[Row]:
    return [Row(name, answer, user or answer, why) for name in names]


_KINDS = ("user", "mount", "network", "pid", "ipc", "uts", "cgroup", "all")
_ADMIN = "seccomp: needs CAP_SYS_ADMIN"
_NO_SOCKET = "EPERM|EAFNOSUPPORT"

SYSTEM_CALLS = [
    *_rows(_ADMIN, "EPERM", *(f"unshare-{kind}" for kind in _KINDS), "setns"),
    *_rows("seccomp: flags of clone are masked", "EPERM", *(f"clone-{kind}" for kind in _KINDS)),
    *_rows("seccomp: its flags are out of sight; programs fall back", "ENOSYS", "clone3-user"),
    *_rows(
        _ADMIN, "EPERM", "mount-tmpfs", "mount-proc", "mount-sysfs", "mount-cgroup", "mount-bind",
        "remount-proc-sys", "remount-cgroups", "unmount-masks", "pivot-root", "fsopen", "fspick",
        "fsconfig", "fsmount", "open-tree", "move-mount", "mount-setattr", "quotactl", "fanotify",
        "sethostname", "setdomainname",
    ),
    *_rows(
        "seccomp: a door to the kernel that has often been broken", "EPERM",
        "bpf", "perf", "keyctl", "add-key", "request-key", "userfaultfd", "io-uring",
    ),
    *_rows(
        "seccomp: changes the host's kernel", "EPERM", "init-module", "finit-module", "delete-module",
        "kexec", "kexec-file", "reboot", "syslog", "clock-settime", "swapon", "swapoff", "acct", "iopl",
        "ioperm", "vhangup",
    ),
    *_rows(
        "seccomp: looks into or steers other processes and memory", "EPERM", "kcmp", "pidfd-getfd",
        "process-madvise", "set-mempolicy", "move-pages", "open-by-handle", "personality",
    ),
    *_rows("seccomp: a table of system calls without a filter is closed", "SIGSYS|ENOSYS|EPERM", "x32"),
    *_rows("seccomp: speaks to the hypervisor", _NO_SOCKET, "vsock"),
    *_rows("seccomp: the kernel's crypto, which wrote to files of the host", _NO_SOCKET, "af-alg"),
    *_rows("no CAP_SYS_TIME", "EPERM", "adjtimex"),
    *_rows("no CAP_NET_ADMIN", "EPERM", "netlink-link", "netlink-route", "netlink-rules"),
    *_rows("no CAP_SYS_NICE", "EPERM|EACCES", "nice", "real-time"),
    *_rows("no CAP_SYS_RESOURCE", "EPERM|EACCES", "rlimit", "oom-score"),
    *_rows("the bounding set", "EPERM", "capset", "file-capabilities", "trusted-attribute"),
]  # fmt: skip

FILES = [
    *_rows(
        "read-only path", "EROFS|ENOENT", "sysrq-trigger", "core-pattern", "modprobe", "binfmt",
        "overcommit", "irq-affinity", user="EACCES|ENOENT",
    ),
    *_rows("/sys is read-only", "EROFS|ENOENT", "uevent-helper", "power-state",
           user="EROFS|EACCES|ENOENT"),
    *_rows("no such device in the container", "ENOENT", "dev-mem", "dev-kmsg"),
    *_rows("no file of the kernel's may be written", "none", "writable-proc", "writable-sys"),
    *_rows("control groups are read-only: no release_agent", "none", "make-cgroup"),
    *_rows(
        "the devices' control group; uid 1000 may make no node", "EPERM", "disk-own", "disk-virtio",
        "disk-scsi", "disk-nvme", "disk-loop", "node-mem", "node-port", "node-kmsg", "node-fuse",
        "node-kvm", "node-loop-control", "node-serial", "node-input",
    ),
    *_rows("the container's root is a mount of its own", "contained", "chroot-breakout", user="EPERM"),
    *_rows("the first process is the container's own", "contained", "root-of-init", user="EACCES"),
    *_rows("no descriptor is left open (CVE-2024-21626)", "none", "leaked-descriptors"),
    *_rows("where one begins", "contained", "directory"),
    *_rows("nothing of the host's is mounted", "none", "api-sockets"),
    *_rows("a network namespace of its own (CVE-2020-15257)", "none", "abstract-sockets"),
]  # fmt: skip

ATTEMPTS = [*SYSTEM_CALLS, *FILES]

OTHERS = _rows(
    "processes of others have no number in here", "ESRCH",
    "ptrace", "kill", "pidfd-open", "process-vm-readv",
)  # fmt: skip
"""Tried with the number that a process has on the host: another container's, and the daemon's."""

ON_THE_HOSTS_NETWORK = [
    row for row in ATTEMPTS if row.name.startswith("netlink-") or row.name == "abstract-sockets"
]
"""Tried once more in a container that has no network namespace of its own."""
