"""Volumes, with events of their changes, as in `docker events`: create, mount, unmount, destroy,
prune; and which containers use them.

The containers' own records say which volumes they use (`ContainerConfig.mounts`): there is no
second book that could disagree with them. Only for the moment between a volume's making and the
container's record, the container's claim is kept here.
"""

import logging
from collections.abc import Callable, Iterable, Sequence

import msgspec

from weft.engine.events import EventLog
from weft.errors import Conflict, InvalidArgument, NotFound, OperationFailed, WeftError
from weft.model.container import Container, ContainerConfig, ImageConfig
from weft.model.ids import ContainerId
from weft.model.meta import Nanoseconds
from weft.model.service import Mount
from weft.model.volume import (
    ANONYMOUS_LABEL,
    LOCAL,
    MountPoint,
    Volume,
    anonymous_name,
    check_name,
    check_options,
    clean,
    point_of,
    volumes_of,
)
from weft.runtime import base

log = logging.getLogger(__name__)

IN_USE = "remove {name}: volume is in use - [{users}]"
UNKNOWN_DRIVER = (
    'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found'
)
MAX_VOLUMES = 256
"""Volumes that one image may ask for, which is not trusted: each is made on the disk, and mounted.
A service may ask for as many mounts."""
_RELABELLED = "z"
"""Docker's mode for a volume that a user mounts: files get the label of all containers."""


class Volumes:
    def __init__(
        self,
        volumes: base.Volumes,
        containers: Callable[[], Iterable[Container]],
        events: EventLog,
        clock: Callable[[], Nanoseconds],
        new_id: Callable[[], str],
    ) -> None:
        """`new_id`: makes 64 hexadecimal digits, the name of an anonymous volume without a
        container."""
        self._volumes = volumes
        self._containers = containers
        self._events = events
        self._clock = clock
        self._new_id = new_id
        self._claims: dict[ContainerId, frozenset[str]] = {}
        """The volumes of containers that are being made."""
        self._going: set[str] = set()
        """Volumes that are being removed."""

    # --- volumes

    def all(self) -> list[Volume]:
        return self._volumes.all()

    def get(self, name: str) -> Volume:
        return self._volumes.get(name)

    def path(self, name: str) -> str:
        return str(self._volumes.path(name))

    async def size(self, name: str) -> int:
        return await self._volumes.size(name)

    def users(self, name: str) -> list[ContainerId]:
        """The containers, running or not, that have the volume, or are being made with it."""
        users = [c.id for c in self._containers() if name in volumes_of(c.config.mount_points)]
        return users + [
            id for id, names in self._claims.items() if name in names and id not in users
        ]

    def used(self) -> frozenset[str]:
        """Names of the volumes that have users."""
        held = (volumes_of(container.config.mount_points) for container in self._containers())
        return frozenset().union(*held, *self._claims.values())

    async def create(
        self,
        name: str = "",
        driver: str = "",
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
    ) -> Volume:
        """Without a name, a new anonymous volume. A volume that exists is returned as it is. Raises
        `NotFound` for another driver, `InvalidArgument` for a bad name or option,
        `OperationFailed`."""
        labels, options = dict(labels or {}), dict(options or {})
        if not name:
            name = self._new_id()
            labels[ANONYMOUS_LABEL] = ""
        if driver not in ("", LOCAL):
            raise NotFound(UNKNOWN_DRIVER.format(name=name, driver=driver))
        if (known := self._known(name)) is not None:
            return known
        try:
            check_name(name)
            check_options(options)
            volume = Volume(name=name, labels=labels, options=options, created_at=self._clock())
            made = await self._volumes.create(volume)
        except WeftError as error:
            raise type(error)(f"create {name}: {error}") from error
        if made:
            self._record("create", name, driver=volume.driver)
        return self.get(name)

    def _known(self, name: str) -> Volume | None:
        """None also for a volume that is being removed: another one takes its place."""
        try:
            return self.get(name) if name not in self._going else None
        except NotFound:
            return None

    async def remove(self, name: str, force: bool = False) -> None:
        """`force`: a missing volume is no error. Raises `NotFound`, or `Conflict` with Docker's
        text if a container, running or not, has the volume."""
        try:
            volume = self.get(name)
        except NotFound:
            if force:
                return
            raise
        if users := self.users(name):
            raise Conflict(IN_USE.format(name=name, users=", ".join(users)))
        self._going.add(name)
        try:
            await self._volumes.remove(name)
        finally:
            self._going.discard(name)
        self._record("destroy", name, driver=volume.driver)

    async def prune(self, wanted: Callable[[Volume], bool]) -> tuple[list[str], int]:
        """Removes the volumes that no container has and that are `wanted`, except those with
        options, which hold nothing on this host. Returns their names and the bytes that they
        had."""
        removed, reclaimed = [], 0
        used = self.used()
        for volume in self.all():
            if volume.options or volume.name in used or not wanted(volume):
                continue
            try:
                size = await self.size(volume.name)
                await self.remove(volume.name)
            except WeftError as error:  # in use or gone meanwhile, or it cannot be removed
                log.warning("volume.not_pruned volume=%s cause=%s", volume.name, error)
                continue
            removed.append(volume.name)
            reclaimed += size
        self._record("prune", "", reclaimed=str(reclaimed))
        return removed, reclaimed

    # --- containers

    async def claimed(self, config: ContainerConfig, image: ImageConfig) -> ContainerConfig:
        """The container with its mount points. Makes the volumes that are missing; they cannot be
        removed until `release`. Raises the errors of `create`, and then no volume is left that was
        made for this container alone."""
        points: list[MountPoint] = []
        self._claims[config.id] = frozenset()
        try:
            for point in requested(config.spec.mounts, image):
                if point.type == "volume":
                    point = await self._with_volume(config.id, point)
                points.append(point)
        except BaseException:
            self.release(config.id)
            await self.remove_anonymous(points)
            raise
        return msgspec.structs.replace(config, mounts=tuple(points))

    async def _with_volume(self, container: ContainerId, point: MountPoint) -> MountPoint:
        name = point.name or anonymous_name(container, point.destination)
        options = point.request.volume if point.request is not None else None
        driver = options.driver if options is not None else None
        labels = dict(options.labels) if options is not None else {}
        if not point.name:
            labels[ANONYMOUS_LABEL] = ""
        self._claims[container] |= {name}
        volume = await self.create(
            name,
            driver.name if driver is not None else "",
            driver.options if driver is not None else {},
            labels,
        )
        mode = _RELABELLED if point.request is not None else ""
        return msgspec.structs.replace(
            point, name=name, source=self.path(name), driver=volume.driver, mode=mode
        )

    def release(self, container: ContainerId) -> None:
        """The container's record exists, or never will."""
        self._claims.pop(container, None)

    async def remove_anonymous(self, points: Iterable[MountPoint]) -> None:
        """Removes the volumes that go with a container that had these mounts. Errors are logged: a
        volume that stays can be pruned."""
        for name in volumes_of(point for point in points if point.is_anonymous):
            try:
                await self.remove(name, force=True)
            except Conflict:
                log.info("volume.kept volume=%s cause=%r", name, "another container has it")
            except OperationFailed as error:
                log.warning("volume.not_removed volume=%s cause=%s", name, error)

    def mounted(self, container: Container) -> None:
        for point in _volume_points(container):
            self._record(
                "mount",
                point.name,
                driver=point.driver,
                container=container.id,
                destination=point.destination,
                **{"read/write": "false" if point.read_only else "true"},
                propagation=point.propagation,
            )

    def unmounted(self, container: Container) -> None:
        for point in _volume_points(container):
            self._record("unmount", point.name, driver=point.driver, container=container.id)

    def _record(self, action: str, name: str, **attributes: str) -> None:
        self._events.record("volume", action, name, attributes)


def requested(mounts: Sequence[Mount], image: ImageConfig) -> list[MountPoint]:
    """The mount points that the user asks for, and those of the image's volumes where the user
    mounts nothing. Raises `InvalidArgument` for an image that asks for too many."""
    if len(image.volumes) > MAX_VOLUMES:
        raise InvalidArgument(
            f"cannot create container: the image asks for {len(image.volumes)} volumes, which are"
            f" more than {MAX_VOLUMES}"
        )
    points = [point_of(mount) for mount in mounts]
    taken = {point.destination for point in points}
    for destination in dict.fromkeys(map(clean, image.volumes)):
        if destination not in taken and destination != "/":
            points.append(MountPoint(type="volume", destination=destination))
    return points


def _volume_points(container: Container) -> list[MountPoint]:
    return [point for point in container.config.mount_points if point.type == "volume"]
