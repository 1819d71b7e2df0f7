"""The demo image, zaggash/demo-webapp:latest, as an archive for `docker load`.

The image is built without a container engine, from programs of this machine's Debian packages and
the libraries they need: nginx as process 1, busybox for a shell and its tools, getent, ping. The
same packages give the same bytes.
"""

import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from weft.errors import FailedPrecondition, OperationFailed, cause_of
from weft.system.files import make_missing, replace_file

TAG = "zaggash/demo-webapp:latest"
SOURCES = Path(__file__).parent
PACKAGES = {
    "nginx": "nginx",
    "busybox": "busybox-static",
    "getent": "libc-bin",
    "ping": "iputils-ping",
}
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
NAME_SERVICE = ("libnss_files.so.2", "libnss_dns.so.2")
"""Libraries that getent loads at run time. In newer versions libc has them built in; the files are
then absent or empty."""
EPOCH = 1_700_000_000
"""Time stamp of everything in the image."""
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": (
        "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n"
    ),
    "etc/protocols": "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n",
    "etc/services": "domain 53/tcp\ndomain 53/udp\nhttp 80/tcp\n",
}
DIRECTORIES = (
    "dev",
    "proc",
    "sys",
    "root",
    "run",
    "srv/www",
    "tmp",
    "var/log",
    "var/lib/nginx",
    "var/log/nginx",
)
CONFIG = {
    "Cmd": ["/usr/sbin/nginx"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "ExposedPorts": {"80/tcp": {}},
    "StopSignal": "SIGQUIT",
    "WorkingDir": "/",
    "Labels": {
        "org.opencontainers.image.title": "demo-webapp",
        "org.opencontainers.image.description": "Says who answered whom",
    },
}


def is_current(output: Path) -> bool:
    """Whether the archive exists and is newer than all its inputs."""
    try:
        inputs = [Path(__file__), *image_files(find_programs()).values()]
        return output.stat().st_mtime > max(path.stat().st_mtime for path in inputs)
    except OSError:
        return False


def build(output: Path) -> None:
    """Writes the archive. Raises `FailedPrecondition` if a program is not installed,
    `OperationFailed` if the archive cannot be written."""
    programs = find_programs()
    content = archive(layer(image_files(programs), applets(programs["busybox"])))
    try:
        make_missing(output.parent, 0o755)
        replace_file(output, content, mode=0o644, durable=False)
    except OSError as error:
        raise OperationFailed(f"cannot write the demo image {output}: {cause_of(error)}") from error


def find_programs() -> dict[str, Path]:
    return {name: find_program(name) for name in PACKAGES}


def find_program(name: str) -> Path:
    found = shutil.which(name, path=PATH)
    if found is None:
        raise FailedPrecondition(
            f"cannot build {TAG}: {name} is not installed: apt-get install {PACKAGES[name]}"
        )
    return Path(found).resolve()


def image_files(programs: dict[str, Path]) -> dict[str, Path]:
    """Path in the image -> file on this machine."""
    files = {
        "usr/sbin/nginx": programs["nginx"], "bin/busybox": programs["busybox"],
        "usr/bin/getent": programs["getent"], "usr/bin/ping": programs["ping"],
        "etc/nginx/nginx.conf": SOURCES / "nginx.conf", "srv/www/index.html": SOURCES / "index.html",
    }  # fmt: skip
    libraries = {path for program in programs.values() for path in shared_libraries(program)}
    directory = next((path.parent for path in libraries if path.name.startswith("libc.so")), None)
    if directory is not None:
        libraries |= {directory / name for name in NAME_SERVICE if (directory / name).exists()}
    return files | {str(path).lstrip("/"): path for path in libraries}


def shared_libraries(program: Path) -> list[Path]:
    """The paths at which the dynamic loader finds the libraries; none for a static program."""
    output = subprocess.run(
        ["ldd", str(program)], capture_output=True, text=True, check=False
    ).stdout
    return [Path(path) for path in re.findall(r"\s(/\S+) \(0x", output)]


def applets(busybox: Path) -> list[str]:
    names = subprocess.run(
        [str(busybox), "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    return [name for name in names if name not in ("busybox", "ping", "init")]


def layer(files: dict[str, Path], links: list[str]) -> bytes:
    """The image's only layer: a tar whose bytes depend only on the content."""
    content = {path: file.read_bytes() for path, file in files.items()} | {
        path: text.encode() for path, text in TEXTS.items()
    }
    directories = {str(parent) for path in content for parent in Path(path).parents} | set(
        DIRECTORIES
    )
    directories |= {str(parent) for path in DIRECTORIES for parent in Path(path).parents}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(directories - {"."}):
            tar.addfile(entry(path, tarfile.DIRTYPE, 0o1777 if path == "tmp" else 0o755))
        for path in sorted(content):
            executable = path.startswith(("bin/", "usr/bin/", "usr/sbin/", "lib"))
            info = entry(path, tarfile.REGTYPE, 0o755 if executable else 0o644)
            info.size = len(content[path])
            tar.addfile(info, io.BytesIO(content[path]))
        for name in sorted(links):
            info = entry(f"bin/{name}", tarfile.SYMTYPE, 0o777)
            info.linkname = "busybox"
            tar.addfile(info)
    return buffer.getvalue()


def archive(layer: bytes) -> bytes:
    """The archive, as `docker save` would write it."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    digest = hashlib.sha256(layer).hexdigest()
    config = {
        "architecture": machine, "os": "linux", "created": "2023-11-14T22:13:20Z", "config": CONFIG,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": "2023-11-14T22:13:20Z", "created_by": "weft lab up"}],
    }  # fmt: skip
    document = json.dumps(config, sort_keys=True).encode()
    name = f"{hashlib.sha256(document).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [TAG], "Layers": [f"{digest}/layer.tar"]}]
    blobs = {
        "manifest.json": json.dumps(manifest).encode(),
        name: document,
        f"{digest}/layer.tar": layer,
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, content in blobs.items():
            info = entry(path, tarfile.REGTYPE, 0o644)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def entry(path: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.mtime = kind, mode, EPOCH
    return info
