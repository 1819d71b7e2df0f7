"""Containers and images on one node, as the runtime keeps them and the API shows them."""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from weft.errors import OperationFailed
from weft.model.addresses import Port, Protocol
from weft.model.control_group import group_below
from weft.model.health import HealthCheck
from weft.model.ids import ContainerId
from weft.model.limits import NO_FURTHER, FurtherLimits
from weft.model.meta import SECOND, Nanoseconds
from weft.model.plain_container import PlainContainer
from weft.model.secret import path_in_container
from weft.model.service import ContainerSpec, PublishedPort, Resources
from weft.model.volume import MountPoint, point_of

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

END_NOT_SEEN = "its end was not seen: the host or its conmon was stopped"
"""The error of a container whose end the runtime did not see."""


class ImageConfig(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The part of the OCI image configuration that says how to run the image."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    exposed_ports: tuple[tuple[Port, Protocol], ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: HealthCheck | None = None
    shell: tuple[str, ...] = ()
    """Runs the test of a health check that is one text; empty: `/bin/sh -c`."""


class Image(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    id: str
    """`sha256:` and the digest of the image configuration."""
    tags: tuple[str, ...] = ()
    """`name:tag`, in familiar form (no docker.io/library/)."""
    digests: tuple[str, ...] = ()
    """`name@sha256:…` where the image came from a registry."""
    created: Annotated[Nanoseconds, Meta(ge=0, le=2**63 - 1)] = 0
    size: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    """Bytes of all layers, unpacked."""
    architecture: str = "amd64"
    os: str = "linux"
    author: str = ""
    config: ImageConfig = ImageConfig()
    layers: tuple[str, ...] = ()
    """Digests of the unpacked layers (diff ids), bottom first."""
    document: bytes = b""
    """The OCI image configuration as it was made: its digest is the image's id. Empty if the image
    was taken in before Weft kept it."""

    def __post_init__(self) -> None:
        """Raises `ValueError` for a malformed digest, since digests become directory names."""
        for digest in (self.id, *self.layers):
            if not is_digest(digest):
                raise ValueError(f"not a digest: {digest[:100]!r}")


class HistoryStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of how an image was made."""

    created: Nanoseconds = 0
    """0 if it is not known."""
    created_by: str = ""
    comment: str = ""
    has_layer: bool = True


class NewImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image to be made of one layer, on top of another image's layers if there is one."""

    task: str
    """The work in words, for errors: `import image`."""
    base: Image | None = None
    config: ImageConfig = ImageConfig()
    author: str = ""
    comment: str = ""
    created_by: str = ""
    name: str = ""
    """`name:tag`; empty for none."""


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to create a container; only the image is looked up elsewhere."""

    id: ContainerId
    name: str
    spec: ContainerSpec
    limits: Resources = Resources()
    further: FurtherLimits = NO_FURTHER
    hostname: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """The spec's labels and the swarm's."""
    namespace: str | None
    """Path of the network namespace to run in; None for the host's; empty: one of its own, without
    networks."""
    shared: dict[str, str] = msgspec.field(default_factory=dict)
    """Kinds of other namespaces (pid, ipc, uts, cgroup) that are not the container's own: the path
    of the one to run in, or empty for the host's."""
    sandbox_id: str = ""
    hosts: str = ""
    """Content of /etc/hosts."""
    resolv_conf: str = ""
    """Content of /etc/resolv.conf."""
    log_driver: str = "json-file"
    log_options: dict[str, str] = msgspec.field(default_factory=dict)
    ports: tuple[PublishedPort, ...] = ()
    """Ports of this host that lead to the container."""
    mounts: tuple[MountPoint, ...] = ()
    """What the engine made of the mounts of the spec and the volumes of the image."""
    stdin_once: bool = False
    """Whether the program's input ends when the first client that writes to it goes."""
    shm_size: int = 0
    """Bytes of /dev/shm; 0: 64 MiB."""
    has_shm: bool = True
    shm_owner: str = ""
    """Id of the container whose /dev/shm this one sees: its own if others may join its IPC
    namespace; empty: it has one that no other container can see, the host's, or none."""
    console_size: tuple[int, int] = (0, 0)
    """Rows and columns of the terminal at first; 0: unknown."""
    plain: PlainContainer | None = None
    """None: a container of a task."""

    @property
    def mount_points(self) -> tuple[MountPoint, ...]:
        """The mounts; of a container whose record is older than `mounts`, those of its spec, which
        could not have volumes then."""
        return self.mounts or tuple(map(point_of, self.spec.mounts))

    @property
    def group(self) -> str:
        """Its control group below the one of all containers."""
        return group_below("" if self.plain is None else self.plain.cgroup_parent, self.id)


class MemoryFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a container sees and that is on no disk."""

    path: str
    """In the container."""
    data: bytes
    uid: int = 0
    gid: int = 0
    mode: int = 0o444

    def __repr__(self) -> str:
        return f"MemoryFile({self.path}, {len(self.data)} bytes)"


def file_paths(spec: ContainerSpec) -> tuple[str, ...]:
    """Where the container sees its secrets, then its configs."""
    return (
        *(path_in_container("secret", reference.target) for reference in spec.secrets),
        *(path_in_container("config", reference.target) for reference in spec.configs),
    )


def check_files(config: ContainerConfig, files: Sequence[MemoryFile]) -> None:
    """Raises `OperationFailed` unless these are all the files that the container must see."""
    if tuple(file.path for file in files) != file_paths(config.spec):
        raise OperationFailed(
            f"cannot make container {config.name}: the data of its secrets and configs is not here"
        )


class Confinement(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The confinement of a container besides namespaces and capabilities. The runtime sets it when
    the container is created."""

    masked_paths: tuple[str, ...] = ()
    """Kernel files and directories that are empty in the container."""
    read_only_paths: tuple[str, ...] = ()
    apparmor_profile: str = ""
    """Empty where the host has no AppArmor."""
    no_new_privileges: bool = False
    """Whether no program in the container gains privileges by executing another."""
    init: str = ""
    """The program of the host that runs the container's program as its child and reaps orphans;
    empty: none."""
    cgroup_namespace: bool = False
    """Whether the container sees only its own control groups. On a host with cgroup version 1 the
    container sees the host's unless the user says otherwise, as in Docker Swarm."""
    cgroup_version_1: bool = False
    """Whether the host's control groups are of version 1."""


class ContainerState(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    DEAD = "dead"


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """A container on this node. Ring 3 replaces the value as the container lives."""

    config: ContainerConfig
    image: str
    """Id of the image from which the container was created."""
    args: tuple[str, ...]
    """The whole command line, combined from image and spec."""
    env: tuple[str, ...] = ()
    healthcheck: HealthCheck | None = None
    """Combined from image and spec."""
    confinement: Confinement = Confinement()
    memory_swap: int = 0
    """Bytes that memory and swap together may take: 0 without a limit of memory, -1 for no limit.
    The runtime sets it."""
    state: ContainerState = ContainerState.CREATED
    paused: bool = False
    """Whether its processes, which run, are frozen."""
    pid: int = 0
    """In the daemon's PID namespace; 0 unless running."""
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    created_at: Nanoseconds = 0
    started_at: Nanoseconds = 0
    finished_at: Nanoseconds = 0
    log_path: str = ""

    @property
    def id(self) -> ContainerId:
        return self.config.id

    @property
    def was_lost(self) -> bool:
        """The container ended with its host or conmon."""
        return self.state is ContainerState.EXITED and self.error == END_NOT_SEEN

    @property
    def is_plain(self) -> bool:
        """Whether a user made it, and not the swarm."""
        return self.config.plain is not None

    @property
    def is_transient(self) -> bool:
        """Whether it is removed when it ends, so that it need not outlive a loss of power."""
        return self.config.plain is not None and self.config.plain.auto_remove

    @property
    def stop_grace_period(self) -> Nanoseconds:
        return self.config.spec.stop_grace_period or 10 * SECOND


class LogLine(msgspec.Struct, frozen=True):
    stream: int
    """1 stdout, 2 stderr."""
    timestamp: Nanoseconds
    data: bytes
    """Includes the newline, unless the container ended in the middle of a line."""


class NodeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event for `docker events`."""

    type: str
    """container, image, network, service, node, secret, config."""
    action: str
    id: str
    attributes: dict[str, str] = msgspec.field(default_factory=dict)
    time: Nanoseconds
    scope: str = "local"
