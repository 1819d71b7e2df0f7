"""A container's configuration in the form of the OCI runtime specification (runtime-spec 1.0.2),
with Docker's defaults.

Source of the defaults: moby `oci/defaults.go` and `oci/caps/defaults.go`. This file turns values
into JSON; it reads only the image's user tables and this process's own limits.
"""

import resource
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from weft.errors import InvalidArgument
from weft.model.capabilities import ALL, CAPABILITIES, capability
from weft.model.container import Confinement, Container, ContainerConfig, Image, file_paths
from weft.model.health import health_check
from weft.model.kernel_settings import DOMAIN_NAME, ULIMITS, check_sysctls, check_ulimit
from weft.model.meta import Nanoseconds
from weft.model.service import ContainerSpec, Ulimit
from weft.runtime.cdi import NOTHING, Injected, edited
from weft.runtime.devices import Devices
from weft.runtime.limits_document import resources
from weft.runtime.mount_document import NO_MOUNTS, Document, UserMounts, arranged
from weft.runtime.system_mounts import system_mounts
from weft.runtime.users import User

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip
INIT_TARGET = "/sbin/docker-init"
"""Where the init program is in a container, as in Docker."""
NO_COMMAND = ("",)
"""A spec's command that removes the image's entrypoint."""
_NETWORK_SYSCTLS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""Docker sets these in a network namespace of the container's own, and nowhere else: port 80 and
ping need no capability there."""


def new_container(
    config: ContainerConfig, image: Image, created_at: Nanoseconds, log_path: str, memory_swap: int
) -> Container:
    """The container, with all that it takes from its image."""
    return Container(
        config=config,
        image=image.id,
        args=command_line(image, config.spec),
        env=environment(image, config.spec),
        healthcheck=health_check(config.spec.healthcheck, image.config.healthcheck),
        memory_swap=memory_swap,
        created_at=created_at,
        log_path=log_path,
    )


def command_line(image: Image, spec: ContainerSpec) -> tuple[str, ...]:
    """The service's command replaces the image's entrypoint and arguments; the service's args
    replace only the arguments."""
    entrypoint = () if spec.command == NO_COMMAND else spec.command or image.config.entrypoint
    arguments = spec.args or (() if spec.command else image.config.cmd)
    if not (*entrypoint, *arguments):
        raise InvalidArgument(
            f"cannot create container from image {spec.image}: no command specified"
        )
    return (*entrypoint, *arguments)


def environment(image: Image, spec: ContainerSpec) -> tuple[str, ...]:
    """The service's variables, then the image's variables that the service does not set, and a
    default PATH if neither sets one. A name without `=` hides the image's variable: it stays in the
    container's configuration, as in Docker, and no process gets it (`set_variables`)."""
    merged = {line.partition("=")[0]: line for line in (DEFAULT_PATH, *image.config.env, *spec.env)}
    first = list(dict.fromkeys(line.partition("=")[0] for line in spec.env))
    rest = [name for name in merged if name not in first and name != "PATH"]
    order = [*first, *(["PATH"] if "PATH" not in first else []), *rest]
    return tuple(merged[name] for name in order)


def set_variables(env: Iterable[str]) -> list[str]:
    """Those that have a value, if only an empty one."""
    return [line for line in env if "=" in line]


def container_document(
    container: Container,
    image: Image,
    user: User,
    directory: Path,
    seccomp: Mapping[str, Any] | None,
    devices: Devices,
    mounts: UserMounts = NO_MOUNTS,
    group: str = "/weft",
    given: Injected = NOTHING,
) -> bytes:
    """config.json for a container whose files (`merged`, `memory`, `hosts`, `hostname`, `resolv.conf`)
    are in `directory`. `seccomp`: the filter for its capabilities; None: no filter. `group`: the
    control group below which its own is to be. `given`: what drivers of devices add."""
    config, spec, confinement = container.config, container.config.spec, container.confinement
    document: dict[str, Any] = {
        "ociVersion": "1.0.2",
        **_names(config),
        "process": _first_process(container, image, user),
        "root": {"path": str(directory / "merged"), "readonly": spec.read_only},
        "mounts": arranged(
            system_mounts(config, directory.parent),
            [
                *_own_files(directory, confinement.init, mounts.documents),
                *mounts.documents,
                *_memory_files(directory / "memory", spec),
            ],
        ),
        "linux": {
            "namespaces": _namespaces(config, confinement),
            "cgroupsPath": f"{group}/{config.group}",
            "devices": devices.nodes,
            "resources": resources(config, container.memory_swap) | {"devices": devices.rules},
            "sysctl": _sysctls(config),
            "maskedPaths": confinement.masked_paths,
            "readonlyPaths": confinement.read_only_paths,
        },
    }
    if mounts.root_propagation:
        document["linux"]["rootfsPropagation"] = mounts.root_propagation
    if seccomp is not None:
        document["linux"]["seccomp"] = seccomp
    return msgspec.json.encode(edited(document, given))


def _first_process(container: Container, image: Image, user: User) -> dict[str, Any]:
    config, spec, confinement = container.config, container.config.spec, container.confinement
    variables = [
        f"HOSTNAME={config.hostname}",
        *(["TERM=xterm"] if spec.tty else []),
        *set_variables(container.env),
    ]
    process = process_document(
        (*((INIT_TARGET, "--") if confinement.init else ()), *container.args),
        variables,
        spec.dir or image.config.working_dir or "/",
        user,
        capabilities_of(spec),
        spec.tty,
        confinement,
        spec.ulimits,
    )
    if spec.oom_score_adj:
        process["oomScoreAdj"] = spec.oom_score_adj
    if spec.tty and any(config.console_size):
        rows, columns = config.console_size
        process["consoleSize"] = {"height": rows, "width": columns}
    return process


def _names(config: ContainerConfig) -> dict[str, Any]:
    """What others call the container by."""
    own = {} if "uts" in config.shared else {"hostname": config.hostname}
    notes = {} if config.plain is None else config.plain.written.annotations
    return own | ({"annotations": notes} if notes else {})


def command_document(
    container: Container,
    argv: Sequence[str],
    env: Sequence[str],
    directory: str,
    user: User,
    tty: bool,
    privileged: bool,
) -> dict[str, Any]:
    """`process` of a further command in a container."""
    spec = container.config.spec
    merged = {
        line.partition("=")[0]: line
        for line in (*set_variables(container.env), *(["TERM=xterm"] if tty else []), *env)
    }
    return process_document(
        argv,
        [f"HOSTNAME={container.config.hostname}", *merged.values()],
        directory,
        user,
        all_capabilities() if privileged else capabilities_of(spec),
        tty,
        container.confinement,
        spec.ulimits,
    )


def process_document(
    argv: Sequence[str],
    env: Sequence[str],
    directory: str,
    user: User,
    capabilities: Sequence[str],
    tty: bool,
    confinement: Confinement,
    ulimits: Sequence[Ulimit] = (),
) -> dict[str, Any]:
    """`process` of the specification, for a container's first process or for a further one."""
    held, profile = [] if user.uid else list(capabilities), confinement.apparmor_profile
    return {
        "terminal": tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": user.groups},
        "args": list(argv),
        "env": list(env),
        "cwd": directory,
        "capabilities": {"bounding": list(capabilities), "effective": held, "permitted": held},
        "noNewPrivileges": confinement.no_new_privileges,
        "rlimits": [_rlimit(limit) for limit in ulimits],
    } | ({"apparmorProfile": profile} if profile else {})


def capabilities_of(spec: ContainerSpec) -> tuple[str, ...]:
    """Of the container's programs. A privileged container has all, whatever is added or dropped, as
    in Docker. Raises `InvalidArgument`, see `capability_set`."""
    chosen = capability_set(spec.cap_add, spec.cap_drop)
    return all_capabilities() if spec.privileges.privileged else chosen


def capability_set(add: Sequence[str], drop: Sequence[str]) -> tuple[str, ...]:
    """Docker's defaults without `drop` and with `add`. Both may name ALL; to add ALL adds all
    capabilities that this host can grant. Raises `InvalidArgument` for a name that Linux does not
    have."""
    added = [capability("CapAdd", name) for name in add]
    dropped = [capability("CapDrop", name) for name in drop]
    base = all_capabilities() if ALL in added else DEFAULT_CAPABILITIES
    kept = [] if ALL in dropped else [name for name in base if name not in dropped]
    return tuple(dict.fromkeys((*kept, *(name for name in added if name != ALL))))


def all_capabilities() -> tuple[str, ...]:
    """All capabilities that this process can pass on: root in a virtual machine or container may
    lack some."""
    status = Path("/proc/self/status").read_text()
    mask = int(
        next(line for line in status.splitlines() if line.startswith("CapBnd")).split()[1], 16
    )
    return tuple(name for number, name in enumerate(CAPABILITIES) if mask >> number & 1)


def _rlimit(limit: Ulimit) -> dict[str, Any]:
    check_ulimit(limit)
    ours = resource.getrlimit(ULIMITS[limit.name])[1]
    if (
        ours != resource.RLIM_INFINITY
        and (limit.hard < 0 or limit.hard > ours)
        and not _may_raise_limits()
    ):
        raise InvalidArgument(
            f"cannot set ulimit {limit.name}={limit.soft}:{limit.hard}: this host's hard limit is"
            f" {ours} and the daemon has no CAP_SYS_RESOURCE to raise it"
        )
    unlimited = 2**64 - 1
    soft, hard = (value if value >= 0 else unlimited for value in (limit.soft, limit.hard))
    return {"type": f"RLIMIT_{limit.name.upper()}", "soft": soft, "hard": hard}


def _may_raise_limits() -> bool:
    return "CAP_SYS_RESOURCE" in all_capabilities()


def _namespaces(config: ContainerConfig, confinement: Confinement) -> list[dict[str, str]]:
    kinds = ["pid", "mount", "ipc", "uts", *(["cgroup"] if confinement.cgroup_namespace else [])]
    paths = {kind: config.shared.get(kind) for kind in kinds}
    own = [{"type": kind} for kind, path in paths.items() if path is None]
    others = [{"type": kind, "path": path} for kind, path in paths.items() if path]
    network = [{"type": "network"}] if config.namespace is not None else []
    if config.namespace:
        network[0]["path"] = config.namespace
    return [*own, *others, *network]


def _sysctls(config: ContainerConfig) -> dict[str, str]:
    check_sysctls(config.spec.sysctls, host_network=config.namespace is None)
    network = {} if config.namespace is None else _NETWORK_SYSCTLS
    return _domain_name(config) | network | config.spec.sysctls


def _domain_name(config: ContainerConfig) -> dict[str, str]:
    """The specification has no field for it in the version that runc 1.1 knows; the sysctl does
    the same."""
    name = "" if config.plain is None or "uts" in config.shared else config.plain.domain_name
    return {DOMAIN_NAME: name} if name else {}


def _own_files(directory: Path, init: str, mounts: Sequence[Document]) -> list[Document]:
    """The three files that the daemon writes for a container, unless the user mounts others in
    their place, and the init program."""
    taken = {mount["destination"] for mount in mounts}
    targets = {
        "resolv.conf": "/etc/resolv.conf",
        "hostname": "/etc/hostname",
        "hosts": "/etc/hosts",
    }
    files = [
        _bound(str(directory / name), target)
        for name, target in targets.items()
        if target not in taken
    ]
    return [*files, *([_bound(init, INIT_TARGET, "ro")] if init else [])]


def _memory_files(memory: Path, spec: ContainerSpec) -> list[dict[str, Any]]:
    """The secrets and configs (`memory.py`)."""
    options = ["bind", "rprivate", "ro", "nosuid", "nodev", "noexec"]
    return [
        {"destination": path, "type": "bind", "source": str(memory / str(n)), "options": options}
        for n, path in enumerate(file_paths(spec))
    ]


def _bound(source: str, target: str, *options: str) -> Document:
    return {
        "destination": target,
        "type": "bind",
        "source": source,
        "options": ["rbind", "rprivate", *options],
    }
