"""What only a plain container has: one that a user made on this node, and not a task of the swarm.

Who writes it: the user, in the request that makes the container; `stopped_by_user` and
`restart_count`, which are last, the engine. It is part of the container's own record, so it lives
exactly as long as the container."""

from typing import Literal

import msgspec

from weft.model.addresses import Port, Protocol
from weft.model.device import DeviceRule
from weft.model.device_request import DeviceRequest
from weft.model.endpoint_settings import EndpointSettings
from weft.model.meta import SECOND, Nanoseconds
from weft.model.service import Mount

RestartName = Literal["no", "always", "unless-stopped", "on-failure"]

JOINED = "container:"
"""Begins the mode of a namespace that is another container's."""
FIRST_PAUSE: Nanoseconds = SECOND // 10
LAST_PAUSE: Nanoseconds = 60 * SECOND
"""Before a restart: the pause doubles from the first to the last (moby restartmanager)."""
LONG: Nanoseconds = 10 * SECOND
"""A container that ran as long begins with the first pause again."""


class RestartRule(msgspec.Struct, frozen=True, omit_defaults=True):
    name: RestartName = "no"
    most: int = 0
    """Restarts at most, of `on-failure`; 0: without limit."""

    def applies(self, exit_code: int, *, restarts: int, by_user: bool) -> bool:
        """Whether a container that has ended is started again. `restarts`: how often that was done
        since a user started it; `by_user`: whether a user has stopped it."""
        match self.name:
            case "always":
                return True
            case "unless-stopped":
                return not by_user
            case "on-failure":
                return exit_code != 0 and (not self.most or restarts < self.most)
        return False


def restart_pause(last: Nanoseconds, ran: Nanoseconds) -> Nanoseconds:
    """How long to wait before a restart. `last`: the pause before the start of the container that
    has now ended, 0 for none; `ran`: how long it ran."""
    if ran >= LONG or not last:
        return FIRST_PAUSE
    return min(2 * last, LAST_PAUSE)


class PortBinding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One `-p` of a container: ports of this host that lead to one of its ports."""

    target: Port
    protocol: Protocol
    address: str = ""
    """An address of the host; empty: all addresses."""
    ports: str = ""
    """`8080`, `8000-8010`: one of them; empty: any free one."""

    @property
    def first(self) -> Port:
        return int(self.ports.partition("-")[0] or 0)

    @property
    def last(self) -> Port:
        return int(self.ports.rpartition("-")[2] or 0)


def has_no_networks(mode: str) -> bool:
    """`mode`: of the network, as the user wrote it."""
    return mode in ("host", "none") or mode.startswith(JOINED)


class NamespaceModes(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The owner of each of the container's namespaces, as Docker writes it: empty or `private` for
    its own, `host`, or `container:<id>`."""

    network: str = "default"
    """Also `none`, `bridge`, or a network's name."""
    pid: str = ""
    ipc: str = ""
    """Also `none`: its own, without /dev/shm; `shareable`: its own, and others may join it."""
    uts: str = ""
    user: str = ""
    cgroup: str = ""

    @property
    def is_alone(self) -> bool:
        """Whether the container cannot be connected to networks."""
        return has_no_networks(self.network)


class AsWritten(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Parts of the request that `inspect` shows as they were written, and that have become other
    fields of the container."""

    binds: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    tmpfs: dict[str, str] = msgspec.field(default_factory=dict)
    volumes_from: tuple[str, ...] = ()
    volume_driver: str = ""
    mounts: tuple[Mount, ...] = ()
    security_options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()
    attached: tuple[bool, bool, bool] = (False, False, False)
    """stdin, stdout and stderr of the client that made it."""
    id_file: str = ""
    """Where the client wrote the container's id."""
    stop_timeout: int | None = None
    """Seconds."""
    annotations: dict[str, str] = msgspec.field(default_factory=dict)


class PlainContainer(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    restart: RestartRule = RestartRule()
    auto_remove: bool = False
    """Whether the container is removed once it has ended."""
    modes: NamespaceModes = NamespaceModes()
    networks: tuple[EndpointSettings, ...] = ()
    """Its places on networks of this node, while it runs."""
    domain_name: str = ""
    ports: tuple[PortBinding, ...] = ()
    publish_all: bool = False
    exposed: tuple[tuple[Port, Protocol], ...] = ()
    """Beside those of the image."""
    mac_address: str = ""
    device_requests: tuple[DeviceRequest, ...] = ()
    device_rules: tuple[DeviceRule, ...] = ()
    cgroup_parent: str = ""
    """As it was written: see `control_group.py`."""
    written: AsWritten = AsWritten()
    stopped_by_user: bool = False
    """Since its last start."""
    restart_count: int = 0
    """Since a user started it."""


def restarting(container: str) -> str:
    """Docker's refusal of what needs a process, while the container waits for its restart."""
    return f"Container {container} is restarting, wait until the container is running"
