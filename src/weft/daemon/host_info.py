"""Facts about this host for `docker info`, `docker version` and the node's description in the
swarm. They are read once at start."""

import logging
import os
import platform
import re
import shutil
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from weft import VERSION
from weft.engine.adapters import HostResolver
from weft.errors import OperationFailed, cause_of
from weft.model.generic import GenericResource
from weft.model.host import HostInfo
from weft.model.node import NodeDescription
from weft.model.service import Resources
from weft.system.files import replace_file

log = logging.getLogger(__name__)

PROGRAMS = ("conmon", "runc", "skopeo")
"""Programs that the daemon requires."""

_ENGINE_ID = re.compile(r"[0-9a-f-]{36}")
CGROUP_CONTROLLERS = Path("/sys/fs/cgroup/cgroup.controllers")
RESOLVER_KEYWORDS = ("nameserver", "search", "options")


def missing_programs() -> list[str]:
    """A sentence for each program that is not on the PATH."""
    return [
        f"{program} is not installed (not found in PATH)"
        for program in PROGRAMS
        if shutil.which(program) is None
    ]


def is_stopping(systemd: Path = Path("/run/systemd/system")) -> bool:
    """Whether the whole host is being shut down, and not this daemon alone. Only systemd tells
    (`systemd`: its runtime directory, which is there while it is the host's init)."""
    return systemd.exists() and _first_line("systemctl", "is-system-running") == "stopping"


def read(
    data_root: Path,
    started_at: int,
    labels: Mapping[str, str] = MappingProxyType({}),
    warnings: tuple[str, ...] = (),
    generic: tuple[GenericResource, ...] = (),
) -> HostInfo:
    uname = os.uname()
    release = _os_release()
    return HostInfo(
        hostname=uname.nodename,
        engine_id=_engine_id(data_root),
        kernel=uname.release,
        operating_system=release.get("PRETTY_NAME", "Linux"),
        os_version=release.get("VERSION_ID", ""),
        architecture=platform.machine(),
        cpus=os.cpu_count() or 1,
        memory=_memory(),
        data_root=str(data_root),
        runtime=_version("runc"),
        runtime_commit=_commit("runc"),
        conmon=_version("conmon"),
        version=VERSION,
        cgroup_version="2" if CGROUP_CONTROLLERS.exists() else "1",
        started_at=started_at,
        labels=dict(labels),
        generic=generic,
        warnings=warnings,
    )


def describe(info: HostInfo) -> NodeDescription:
    return NodeDescription(
        hostname=info.hostname,
        architecture=info.architecture,
        resources=Resources(nano_cpus=info.cpus * 10**9, memory=info.memory, generic=info.generic),
        engine_version=info.version,
        engine_labels=dict(info.labels),
    )


def _os_release() -> dict[str, str]:
    try:
        lines = Path("/etc/os-release").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key: value.strip('"') for key, value in pairs}


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def said(*argv: str) -> str:
    """Output of a program; empty if it is missing or fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _first_line(*argv: str) -> str:
    return next(iter(_lines(*argv)), "").strip()


def _lines(*argv: str) -> list[str]:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines()


def _version(program: str) -> str:
    """`runc 1.1.5` for `runc version 1.1.5+ds1`; empty if the program is missing."""
    words = _first_line(program, "--version").split()
    return f"{program} {words[-1].partition('+')[0]}" if words else ""


def _commit(program: str) -> str:
    """What the program says of its source, or its version."""
    found = [
        line.partition(":")[2].strip()
        for line in _lines(program, "--version")
        if line.startswith("commit:")
    ]
    return found[0] if found else _version(program).rpartition(" ")[2]


def _engine_id(data_root: Path) -> str:
    """An id made on the first start and kept in the data root. A damaged id is replaced: nothing
    depends on it."""
    path = data_root / "engine-id"
    try:
        found = path.read_bytes().decode(errors="replace")
        if _ENGINE_ID.fullmatch(found):
            return found
        log.warning("engine_id.damaged path=%s", path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OperationFailed(f"cannot read {path}: {cause_of(error)}") from error
    made = str(uuid.uuid4())
    try:
        replace_file(path, made.encode())
    except OSError as error:
        raise OperationFailed(f"cannot write {path}: {cause_of(error)}") from error
    return made


def resolver(path: Path = Path("/etc/resolv.conf")) -> HostResolver:
    """The present contents of resolv.conf(5); empty if the file is missing."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return HostResolver()
    words = {
        keyword: [w for line in lines if line[:1] == [keyword] for w in line[1:]]
        for keyword in RESOLVER_KEYWORDS
    }
    return HostResolver(*(tuple(words[keyword]) for keyword in RESOLVER_KEYWORDS))
