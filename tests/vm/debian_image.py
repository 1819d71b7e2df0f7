"""The disk of a Debian host for `debian_host.py`: the release's own packages, its cloud kernel and the initial RAM disk that
Debian's own tools make, with systemd, udev and networkd.

    python3 tests/vm/debian_image.py RELEASE…       makes what is missing in the cache, and prints the directories

All comes from Debian's archive by the names of packages. Weft is not in it: the tests install its package. It has what that
package depends on and recommends, so that it can be installed without a network. A disk is used again until its recipe changes:
the list of packages, this file, or the program of the host.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CACHE = Path("/var/cache/weft/vm-hosts")
RELEASES = ("bookworm", "trixie")
PACKAGES = (
    "linux-image-cloud-amd64", "initramfs-tools", "zstd", "systemd", "systemd-sysv", "udev", "dbus", "kmod", "init-system-helpers",
    "python3", "conmon", "runc", "skopeo", "golang-github-containers-common", "libnftables1", "nftables", "iproute2", "etcd-server",
    "ca-certificates", "apparmor", "libpcap0.8", "iputils-ping", "curl", "procps",
)  # fmt: skip
MODULES = ("virtio_pci", "virtio_blk", "ext4")
"""What the initial RAM disk needs to find the disk; all else is loaded from there."""
AGENT = Path(__file__).with_name("host_agent.py")
UNIT = """\
[Unit]
Description=Does what the tests say
DefaultDependencies=no
After=systemd-remount-fs.service systemd-tmpfiles-setup-dev.service
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/host_agent.py
KillMode=process
Restart=on-failure
[Install]
WantedBy=sysinit.target
"""
_MEGABYTES = 2500
"""Of the disk; sparse."""


def ensure(release: str) -> Path:
    """The directory with `disk`, `vmlinuz` and `initrd`, made if it is not there."""
    recipe = repr((release, PACKAGES, Path(__file__).read_text(), AGENT.read_text()))
    ready = CACHE / f"{release}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not ready.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=f".{release}-") as made:
            draft = Path(made)
            draft.chmod(0o755)  # apt fetches as a user of its own
            _make(release, draft / "root", draft / "ready")
            for old in CACHE.glob(f"{release}-*"):
                shutil.rmtree(old)
            (draft / "ready").rename(ready)
    return ready


def _make(release: str, root: Path, ready: Path) -> None:
    small = (
        'mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d";'
        ' echo MODULES=list >"$1/etc/initramfs-tools/conf.d/small";'
        f' printf "%s\\n" {" ".join(MODULES)} >"$1/usr/share/initramfs-tools/modules.d/small"'
    )
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}", f"--essential-hook={small}", release, root],
        check=True,
    )  # fmt: skip
    ready.mkdir()
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    (ramdisk,) = (root / "boot").glob("initrd.img-*")
    shutil.copy(kernel, ready / "vmlinuz")
    shutil.copy(ramdisk, ready / "initrd")
    _equip(root)
    disk = ready / "disk"
    with disk.open("wb") as empty:
        empty.truncate(_MEGABYTES << 20)
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "no_copy_xattrs", "-d", root, disk],
        check=True,
    )


def _equip(root: Path) -> None:
    """With the program of the tests, and without services that would only take the emulator's time."""
    shutil.copy(AGENT, root / "usr/local/lib/host_agent.py")
    (root / "etc/systemd/system/tests.service").write_text(UNIT)
    run = ["systemctl", f"--root={root}"]
    subprocess.run([*run, "enable", "--quiet", "tests.service", "systemd-networkd.service"], check=True)  # fmt: skip
    idle = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
            "fstrim.timer", "etcd.service", "getty@tty1.service", "serial-getty@ttyS0.service",
            "systemd-binfmt.service", "systemd-pcrphase.service")  # fmt: skip
    subprocess.run([*run, "mask", "--quiet", *idle], check=True)
    (root / "etc/machine-id").unlink(missing_ok=True)
    (root / "etc/machine-id").touch()
    (root / "etc/fstab").write_text("")


if __name__ == "__main__":
    for name in sys.argv[1:] or RELEASES:
        print(ensure(name))
