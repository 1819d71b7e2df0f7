"""AppArmor: containers run with the profile `docker-default` where the host has AppArmor, as
Docker's do.

It is used where the kernel has it on, securityfs is mounted, `apparmor_parser` is installed, and
the host is not itself a container (the rule of containerd's `apparmor.HostSupports`, which Docker
asks). The profile allows what seccomp, capabilities and the devices' control group leave, and
denies once more what a container must never do: mount, write to the kernel's files in /proc and
/sys, signal or trace anything outside. Its rules are those of Docker 29's profile
(github.com/moby/profiles, apparmor/template.go).

Updates of the host's own profiles may throw it out of the kernel, so it is looked for before each
container, and loaded again.
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
"""Set in the environment by engines of containers that run whole systems, such as
systemd-nspawn."""


class AppArmor:
    """This host's. `root`: of its file system."""

    def __init__(self, directory: Path, root: Path = Path("/")) -> None:
        """`directory`: for the profile while it is loaded."""
        self._draft = directory / f"{PROFILE}.apparmor"
        self._root = root
        self._kernel = root / "sys/kernel/security/apparmor"
        self._on = _first_line(root / "sys/module/apparmor/parameters/enabled").startswith("Y")
        directories = ":".join(str(root / name) for name in _PARSER_DIRECTORIES)
        self._parser = shutil.which(_PARSER, path=directories) or ""
        self._obstacle = self._find_obstacle()

    def _find_obstacle(self) -> str:
        """What keeps it from being used; empty if nothing does."""
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
        """Where the kernel has it on and containers are yet not confined by it; else nothing."""
        if not (self._on and self._obstacle):
            return ""
        return (
            f"WARNING: AppArmor is enabled in the kernel, but {self._obstacle}: containers run"
            " without an AppArmor profile"
        )

    async def profile(self) -> str:
        """What a container is to run with, in the kernel by now; nothing if the host has no
        AppArmor. Raises `OperationFailed`."""
        if self._obstacle:
            return ""
        if not self._is_loaded():
            await self._load()
        return PROFILE

    def _is_loaded(self) -> bool:
        """A line of the kernel's list is `name (mode)`."""
        path = self._kernel / "profiles"
        try:
            return any(line.startswith(f"{PROFILE} (") for line in path.read_text().splitlines())
        except OSError as error:
            raise OperationFailed(
                f"cannot see whether AppArmor profile {PROFILE} is loaded:"
                f" {path}: {cause_of(error)}"
            ) from error

    async def _load(self) -> None:
        """`-K`: nothing is kept in the parser's cache, which may be read-only. `-r`: in place of
        one that came in between."""
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
"""Files of the host's policy that the profile builds on where they are there."""


def profile_text(daemon: str, present: list[str]) -> str:
    """In the language of apparmor.d(5). `daemon`: the profile that the daemon itself runs in;
    `present`: which of the host's files there are. ABI 3.0 is named because later ones take AF_UNIX
    out of `network`."""
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
    """Empty if there is none."""
    try:
        return path.read_text().partition("\n")[0]
    except OSError:
        return ""
