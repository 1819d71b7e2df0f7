"""AppArmor: containers run with the profile `docker-default` where the host has AppArmor, as with
Docker.

Weft uses the profile where the kernel has AppArmor enabled, securityfs is mounted,
`apparmor_parser` is installed, and the host is not itself a container (the rule of containerd's
`apparmor.HostSupports`, which Docker uses). The profile allows what seccomp, capabilities and the
devices' control group leave, and denies again what a container must never do: mount, write to the
kernel's files in /proc and /sys, signal or trace a process outside. Its rules are those of Docker
29's profile (github.com/moby/profiles, apparmor/template.go).

Updates of the host's own profiles may remove the profile from the kernel. So Weft checks for it
before each container and loads it again if needed.
"""

import os
import shutil
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.system.files import replace_file
from weft.system.process import run

PROFILE = "docker-default"
_PARSER = "apparmor_parser"
_PARSER_DIRECTORIES = ("sbin", "usr/sbin")
_INSIDE = "container"
"""Container engines for whole systems, such as systemd-nspawn, set this in the environment."""


class AppArmor:
    """AppArmor on this host. `root`: root of the host's file system."""

    def __init__(self, directory: Path, root: Path = Path("/")) -> None:
        """`directory`: holds the profile while it is loaded."""
        self._draft = directory / f"{PROFILE}.apparmor"
        self._root = root
        self._kernel = root / "sys/kernel/security/apparmor"
        self._on = _first_line(root / "sys/module/apparmor/parameters/enabled").startswith("Y")
        directories = ":".join(str(root / name) for name in _PARSER_DIRECTORIES)
        self._parser = shutil.which(_PARSER, path=directories) or ""
        self._obstacle = self._find_obstacle()

    def _find_obstacle(self) -> str:
        """The reason why AppArmor cannot be used; empty if it can."""
        if not self._on:
            return "the kernel has it not, or off"
        if not self._kernel.is_dir():
            return f"securityfs is not mounted on {self._kernel.parent}"
        if os.environ.get(_INSIDE):
            return "the daemon runs in a container"
        return "" if self._parser else f"{_PARSER} is not installed"

    @property
    def in_use(self) -> bool:
        return not self._obstacle

    @property
    def warning(self) -> str:
        """The warning if AppArmor is enabled in the kernel but does not confine containers; else
        empty."""
        if not (self._on and self._obstacle):
            return ""
        return (
            f"WARNING: AppArmor is enabled in the kernel, but {self._obstacle}: containers run"
            " without an AppArmor profile"
        )

    async def profile(self) -> str:
        """The profile for a container, loaded into the kernel; empty if the host has no AppArmor.
        Raises `OperationFailed`."""
        if self._obstacle:
            return ""
        if not self._is_loaded():
            await self._load()
        return PROFILE

    def _is_loaded(self) -> bool:
        """Each line of the kernel's list is `name (mode)`."""
        path = self._kernel / "profiles"
        try:
            return any(line.startswith(f"{PROFILE} (") for line in path.read_text().splitlines())
        except OSError as error:
            raise OperationFailed(
                f"cannot see whether AppArmor profile {PROFILE} is loaded:"
                f" {path}: {cause_of(error)}"
            ) from error

    async def _load(self) -> None:
        """`-K`: do not use the parser's cache, which may be read-only. `-r`: replace a profile that
        was loaded in between."""
        try:
            replace_file(self._draft, self._text().encode(), durable=False)
            output = await run([self._parser, "-Kr", str(self._draft)])
        except OSError as error:
            raise OperationFailed(
                f"cannot load AppArmor profile {PROFILE}: {cause_of(error)}"
            ) from error
        finally:
            self._draft.unlink(missing_ok=True)
        if output.code != 0:
            raise OperationFailed(
                f"AppArmor enabled on system but the {PROFILE} profile could not be loaded:"
                f" {_PARSER}: {output.text}"
            )

    def _text(self) -> str:
        policies = self._root / "etc/apparmor.d"
        daemon = _first_line(Path("/proc/self/attr/current")).partition(" (")[0] or "unconfined"
        present = [name for name in _OPTIONAL if (policies / name).exists()]
        return profile_text(daemon, present)


_ABI, _GLOBAL, _BASE = _OPTIONAL = ("abi/3.0", "tunables/global", "abstractions/base")
"""Files of the host's policy that the profile includes if they exist."""


def profile_text(daemon: str, present: list[str]) -> str:
    """The profile in the language of apparmor.d(5). `daemon`: the profile that confines the daemon
    itself; `present`: the host's policy files that exist. The profile names ABI 3.0, because later
    ABIs take AF_UNIX out of `network`."""
    head = [f"abi <{_ABI}>,"] if _ABI in present else []
    head.append(f"#include <{_GLOBAL}>" if _GLOBAL in present else "@{PROC}=/proc/")
    base = f"  #include <{_BASE}>\n" if _BASE in present else ""
    return "\n".join(head) + _BODY.format(name=PROFILE, daemon=daemon, base=base)


_BODY = """

profile "{name}" flags=(attach_disconnected,mediate_deleted) {{
{base}  # Left to capabilities, seccomp and the devices' control group.
  file,
  capability,
  umount,
  network,

  # The kernel's crypto sockets: seccomp cannot see the address family in a 32-bit program's
  # socketcall.
  deny network alg,
  deny mount,

  # Those who end a container: the daemon, the runtime, and what the host runs unconfined. And its
  # own processes each other.
  signal (receive) peer="{daemon}",
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (send,receive) peer="{name}",
  ptrace (trace,tracedby,read,readby) peer="{name}",

  # Of /proc only processes' own directories may be written to, and what sets the limits of System V
  # shared memory.
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9/],[^1-9/][^0-9/],[^1-9s/][^0-9y/][^0-9s/],[^1-9/][^0-9/][^0-9/][^0-9/]*}}/** w,
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,

  # Of /sys only what is below /sys/fs/cgroup.
  deny /sys/kernel/security/** rwklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
}}
"""


def _first_line(path: Path) -> str:
    """Empty if the file does not exist."""
    try:
        return path.read_text().partition("\n")[0]
    except OSError:
        return ""
