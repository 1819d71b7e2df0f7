"""Hosts of a Debian release under their own systemd, in namespaces of this machine: what a package does when it is installed, started,
upgraded and removed can be seen there within seconds.

The root file system is made of Debian's packages once and kept in /var/cache/weft/package; each host writes to a layer of its own
above it. The kernel is this machine's. Everything of a host ends with its first process, which is ended by its number.
"""

import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

CACHE = Path("/var/cache/weft/package")
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "init-system-helpers", "python3", "conmon", "runc", "skopeo", "golang-github-containers-common",
    "libnftables1", "nftables", "iproute2", "etcd-server", "ca-certificates", "apparmor", "curl", "procps",
)  # fmt: skip
"""What weft-swarm depends on and recommends, so that it can be installed without a network; and what tests look with."""
MORE = (
    "tini", "nginx-light", "busybox-static", "iputils-ping", "tcpdump", "openssl", "ufw", "firewalld", "iptables",
)  # fmt: skip
"""What `weft lab` needs besides, which the package suggests; and firewalls."""
STARTED_BY_TESTS = ("nginx", "ufw", "firewalld")
"""Services that a host with these packages does not start by itself."""
INSTALL = "apt-get install -qq -y --no-install-recommends"
ADDRESS = "10.59.75.11"
SECONDS = 180
_NUMBERS = itertools.count()
_BOOT = Path(__file__).with_name("boot.sh")


def base(release: str, more: tuple[str, ...] = ()) -> Path:
    """The release's root file system, with `more` packages than `PACKAGES`, made if need be."""
    packages = (*PACKAGES, *more)
    number = hashlib.sha256(repr((release, packages)).encode()).hexdigest()[:12]
    kind = f"{release}-{'more' if more else 'plain'}"
    root = CACHE / f"{kind}-{number}"
    if not root.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        for old in CACHE.glob(f"{kind}-*"):
            shutil.rmtree(old)
        draft = CACHE / f".{kind}"
        shutil.rmtree(draft, ignore_errors=True)
        off = " ".join(f"{unit}.service" for unit in STARTED_BY_TESTS if more)
        hook = f'chroot "$1" systemctl --quiet disable {off} || true' if off else "true"
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(packages)}",
             f"--customize-hook={hook}", release, draft],
            check=True,
        )  # fmt: skip
        draft.rename(root)
    return root


class BootedHost:
    def __init__(self, release: str, scratch: Path, more: tuple[str, ...] = ()) -> None:
        """`scratch`: for its own files; must not be on an overlay. `more`: packages, see `base`."""
        self.release, self._scratch, self._more = release, scratch, more
        for name in ("upper", "work", "data", "root"):
            (scratch / name).mkdir()
        self._power_on()

    def _power_on(self) -> None:
        self._group = f"weft-host-{os.getpid()}-{next(_NUMBERS)}"
        with (self._scratch / "console").open("wb") as console:
            self._outer = subprocess.Popen(
                ["unshare", "-m", "sh", _BOOT, base(self.release, self._more), self._scratch, ADDRESS, self._group],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._first = 0

    def reboot(self) -> None:
        """Shuts the host down and boots it again, from its disk."""
        self.sh("systemctl --no-block reboot")
        self._outer.wait(SECONDS)
        self._remove_group()
        self._power_on()
        self.boot()

    def boot(self) -> None:
        """Returns when systemd has started all that it starts."""
        deadline = time.monotonic() + SECONDS
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        while not self._first or self.sh(
            "systemctl is-system-running", check=False
        ).strip() not in (
            "running",
            "degraded",
        ):
            if self._outer.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._scratch / "console").read_text(errors="replace"))
            with contextlib.suppress(OSError):  # processes that end while they are looked at
                for child in children.read_text().split():
                    if os.readlink(f"/proc/{child}/exe").endswith("/systemd"):
                        self._first = int(child)
            time.sleep(0.05)

    def sh(self, command: str, *, check: bool = True, seconds: float = SECONDS) -> str:
        """What it prints, errors included."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._first), "-a", "-r", "-w", "env", "-i", "HOME=/root", "LANG=C.UTF-8",
             "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive",
             "sh", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise RuntimeError(f"{command}: status {done.returncode}\n{done.stdout}")
        return done.stdout

    def attach(self, lan: "Lan", address: str) -> None:
        """Takes the host off its own wire, and puts it on a network with others."""
        self.sh("ip link delete eth0")
        lan.connect(self._first, address)

    def put(self, source: Path, target: str) -> None:
        """Copies a file into the host."""
        with source.open("rb") as content:
            subprocess.run(
                ["nsenter", "-t", str(self._first), "-a", "-r", "-w", "dd", "status=none", f"of={target}"],
                stdin=content,
                check=True,
            )  # fmt: skip

    def __enter__(self) -> "BootedHost":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._outer.poll() is None:
            os.kill(self._first or self._outer.pid, signal.SIGKILL)
        self._outer.wait()
        self._remove_group()

    def _remove_group(self) -> None:
        # The kernel needs a moment to forget the last process of a control group.
        remove = (
            'mount -t cgroup2 cgroup2 "$1" && cd "$1" && for i in $(seq 100); do'
            ' [ -d "$2" ] || exit 0; find "$2" -depth -type d -exec rmdir {} + 2>/dev/null; sleep 0.1; done; exit 1'
        )
        subprocess.run(
            ["unshare", "-m", "sh", "-c", remove, "sh", self._scratch / "root", self._group],
            check=True,
        )


class Lan:
    """A network for hosts, and a client on it: a bridge in a network namespace of its own."""

    ADDRESS = "10.59.76.1"

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
        while os.readlink(f"/proc/{self._holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        self.sh(f"ip link add lan type bridge; ip address add {self.ADDRESS}/24 dev lan")
        self.sh("ip link set lo up; ip link set lan up")

    def sh(self, command: str) -> str:
        """Runs as the client."""
        return subprocess.run(
            ["nsenter", "-t", str(self._holder.pid), "-n", "sh", "-c", command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=SECONDS,
        ).stdout  # fmt: skip

    def connect(self, process: int, address: str) -> None:
        port = "p" + address.rpartition(".")[2]
        self.sh(f"ip link add {port} type veth peer name eth0 netns {process}")
        self.sh(f"ip link set {port} master lan up")
        enter = ["nsenter", "-t", str(process), "-n", "sh", "-c"]
        subprocess.run(
            [*enter, f"ip address add {address}/24 dev eth0; ip link set eth0 up"], check=True
        )

    def __enter__(self) -> "Lan":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._holder.kill()
        self._holder.wait()
