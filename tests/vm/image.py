"""The guest's image: Debian's cloud kernel, and an initial RAM disk with the programs of this
machine that the tests need.

    python3 tests/vm/image.py       makes what is missing in the cache and prints the directory

Nothing is installed on the machine for it but qemu: the kernel's package is fetched, unpacked, and
never set up. The disk holds busybox, ip, nft, tcpdump, the interpreter in use with its library,
msgspec, and the kernel's network and crypto modules. What changes between runs (Weft's sources, the
guest's program) is a second archive, made anew each time and put behind the first: the kernel
unpacks one after the other (`Documentation/driver-api/early-userspace/buffer-format.rst`).
"""

import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

CACHE = Path("/var/cache/weft/vm")
HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "src"
META_PACKAGE = "linux-image-cloud-amd64"
PROGRAMS = ("dash", "ip", "bridge", "nft", "tcpdump", "ping")
LIBRARIES = ("msgspec",)
MODULE_TREES = (
    "net",
    "crypto",
    "arch/x86/crypto",
    "drivers/net",
    "drivers/virtio",
    "drivers/char",
    "lib",
)
UNWANTED = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "dist-packages", "__pycache__",
}  # fmt: skip
GUEST_PYTHON = "/opt/weft"
"""Where the guest finds Weft's sources and the libraries."""


class Archive:
    """A cpio archive in the form "newc", the only one that the kernel reads."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._known: set[str] = set()

    def directory(self, path: str) -> None:
        path = path.strip("/")
        if path and path not in self._known:
            self.directory(os.path.dirname(path))
            self._add(path, stat.S_IFDIR | 0o755, b"")

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        path = path.strip("/")
        if path not in self._known:
            self.directory(os.path.dirname(path))
            self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        path = path.strip("/")
        if path not in self._known:
            self.directory(os.path.dirname(path))
            self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def copy(self, source: Path, path: str = "") -> None:
        """A file with what it says, whatever symbolic links lead to it; by default to where it is
        here."""
        self.file(
            path or str(source), source.read_bytes(), 0o755 if os.access(source, os.X_OK) else 0o644
        )

    def tree(self, source: Path, path: str = "") -> None:
        for directory, names, files in os.walk(source):
            names[:] = [
                name for name in names if name not in UNWANTED and not name.startswith("config-")
            ]
            below = os.path.relpath(directory, source)
            for name in files:
                self.copy(
                    Path(directory, name),
                    os.path.normpath(os.path.join(path or str(source), below, name)),
                )

    def device(self, path: str, major: int, minor: int) -> None:
        self.directory(os.path.dirname(path))
        self._add(path.strip("/"), stat.S_IFCHR | 0o600, b"", (major, minor))

    def content(self) -> bytes:
        return b"".join(self._parts) + _entry("TRAILER!!!", 0, 0, b"")

    def _add(self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._known.add(path)
        self._parts.append(_entry(path, len(self._known), mode, content, device))


def _entry(
    path: str, inode: int, mode: int, content: bytes, device: tuple[int, int] = (0, 0)
) -> bytes:
    name = path.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def ensure() -> Path:
    """The directory with `vmlinuz` and `base.cpio`, made if it is not there. Those of earlier
    kernels are thrown away."""
    package = _kernel_package()
    recipe = [
        package,
        sys.version,
        platform.machine(),
        str(sys.base_prefix),
        Path(__file__).read_text(),
    ]
    directory = CACHE / hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:16]
    if not directory.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix=".making-") as made:
            os.chmod(made, 0o755)  # apt fetches as a user of its own
            _make(package, Path(made))
            for old in [found for found in CACHE.iterdir() if not found.name.startswith(".")]:
                shutil.rmtree(old)
            ready = Path(made, "ready")
            ready.rename(directory)
    return directory


def sources() -> bytes:
    """The archive of what is tested, as it is now."""
    archive = Archive()
    archive.tree(SOURCES / "weft", f"{GUEST_PYTHON}/weft")
    archive.copy(HERE / "guest_agent.py", "/agent.py")
    return archive.content()


def _kernel_package() -> str:
    """Name and version of the package that the meta package stands for today."""
    found = subprocess.run(
        ["apt-cache", "depends", META_PACKAGE], capture_output=True, text=True, check=True
    ).stdout
    names = [line.split()[-1] for line in found.splitlines() if "Depends: linux-image-" in line]
    if not names:
        raise SystemExit(f"apt knows no {META_PACKAGE}: run apt-get update")
    shown = subprocess.run(
        ["apt-cache", "show", names[0]], capture_output=True, text=True, check=True
    ).stdout
    version = next(line.split()[1] for line in shown.splitlines() if line.startswith("Version:"))
    return f"{names[0]}={version}"


def _make(package: str, scratch: Path) -> None:
    unpacked, ready = scratch / "unpacked", scratch / "ready"
    unpacked.mkdir()
    ready.mkdir()
    download = scratch / "download"
    download.mkdir(mode=0o777)
    download.chmod(0o777)
    subprocess.run(
        ["apt-get", "-qq", "download", package], cwd=download, check=True, stdout=subprocess.DEVNULL
    )
    (deb,) = download.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", deb, unpacked], check=True)
    (kernel,) = (unpacked / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, ready / "vmlinuz")
    root = scratch / "root"
    (root / "lib").mkdir(parents=True)
    # Where packages and depmod keep modules depends on the release: here both are the same place.
    (root / "usr").symlink_to(".")
    next(
        path for path in (unpacked / "lib/modules", unpacked / "usr/lib/modules") if path.exists()
    ).rename(root / "lib/modules")
    (modules,) = (root / "lib/modules").iterdir()
    subprocess.run(["depmod", "-b", root, modules.name], check=True)
    archive = Archive()
    _add_system(archive)
    _add_modules(archive, modules)
    (ready / "base.cpio").write_bytes(archive.content())


def _add_system(archive: Archive) -> None:
    for path in ("/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/var/lib"):
        archive.directory(path)
    archive.device("/dev/console", 5, 1)
    archive.copy(HERE / "guest_init", "/init")
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    archive.copy(busybox, "/bin/busybox")
    for name in (
        "cat",
        "dmesg",
        "grep",
        "ls",
        "lsmod",
        "modprobe",
        "mount",
        "sleep",
        "sysctl",
        "true",
        "umount",
    ):
        archive.link(f"/bin/{name}", "busybox")
    # Busybox's own shell would run its `ip` instead of the real one.
    archive.link("/bin/sh", "dash")
    archive.link("/sbin/modprobe", "/bin/busybox")  # what the kernel starts when it misses a module
    python = Path(os.path.realpath(sys.executable))
    library = Path(
        sysconfig.get_path(
            "stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix}
        )
    )
    programs = [Path(shutil.which(name) or f"/usr/sbin/{name}") for name in PROGRAMS]
    for program in programs:
        archive.copy(program, f"/bin/{program.name}")
    archive.copy(python)
    archive.link("/bin/python3", str(python))
    archive.tree(library)
    found = [
        Path(spec.origin).parent for name in LIBRARIES if (spec := find_spec(name)) and spec.origin
    ]
    for library_path in found:
        archive.tree(library_path, f"{GUEST_PYTHON}/{library_path.name}")
    compiled = [
        path
        for tree in (library, *found)
        for path in tree.rglob("*.so")
        if not UNWANTED & set(path.relative_to(tree).parts)
    ]
    for shared in sorted(set(_shared_libraries([python, *programs, *compiled]))):
        archive.copy(shared)


def _shared_libraries(binaries: Iterable[Path]) -> Iterator[Path]:
    for binary in binaries:
        listing = subprocess.run(
            ["ldd", binary], capture_output=True, text=True, check=False
        ).stdout
        yield from (
            Path(word)
            for line in listing.splitlines()
            for word in line.split()
            if word.startswith("/")
        )


def _add_modules(archive: Archive, modules: Path) -> None:
    """With the lists that modprobe needs."""
    release = modules.name
    for tree in MODULE_TREES:
        archive.tree(modules / "kernel" / tree, f"/lib/modules/{release}/kernel/{tree}")
    for lists in modules.glob("modules.*"):
        archive.copy(lists, f"/lib/modules/{release}/{lists.name}")


if __name__ == "__main__":
    print(ensure())
