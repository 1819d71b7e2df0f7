"""What the probes of this node's containers have found, on the disk: a file for each container with a
health check, as long as the container exists.

    <directory>/<id>    the last health that was found

The next daemon shows the same results. They are a help to people, nothing depends on them: a file
that cannot be read or written is logged and counts as missing, and none is flushed."""

import logging
from collections.abc import Collection
from pathlib import Path

from weft.errors import OperationFailed
from weft.model.health import Health
from weft.model.ids import ContainerId
from weft.system.value_file import ValueFile

log = logging.getLogger(__name__)


class HealthRecords:
    def __init__(self, directory: Path | None) -> None:
        """None: nothing outlives the daemon."""
        self._directory = directory
        self._known: dict[ContainerId, Health | None] = {}
        """What was read or written."""

    def of(self, id: ContainerId) -> Health | None:
        if id not in self._known:
            self._known[id] = self._read(id)
        return self._known[id]

    def _read(self, id: ContainerId) -> Health | None:
        if self._directory is None:
            return None
        try:
            return self._file(self._directory, id).read()
        except OperationFailed as error:
            log.warning("health.not_read container=%s cause=%s", id[:12], error)
            return None

    def keep(self, id: ContainerId, health: Health) -> None:
        self._known[id] = health
        if self._directory is None:
            return
        try:
            self._file(self._directory, id).write(health)
        except OperationFailed as error:
            log.warning("health.not_kept container=%s cause=%s", id[:12], error)

    def forget(self, id: ContainerId) -> None:
        """The container has been removed."""
        self._known.pop(id, None)
        if self._directory is not None:
            self._remove(self._directory / id)

    def keep_only(self, ids: Collection[ContainerId]) -> None:
        """Forgets all containers but these: a daemon may be killed while it removes one."""
        for path in self._directory.glob("*") if self._directory is not None else ():
            if path.name not in ids:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("health.not_forgotten path=%s cause=%s", path, error)

    def _file(self, directory: Path, id: ContainerId) -> ValueFile[Health]:
        return ValueFile(directory / id, Health)
