"""Volumes in memory, with the contract of `runtime.base.Volumes`. They outlive an engine on the
same object, as real ones outlive the daemon. `sizes` is what a test says that they hold; `fail`
makes the next removal fail."""

from pathlib import Path

from weft.errors import NotFound, OperationFailed
from weft.model.volume import Volume, check_name


class FakeVolumes:
    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        """Bytes, by name."""
        self.fail: list[str] = []
        """Causes for which the next removals fail."""
        self._volumes: dict[str, Volume] = {}

    def all(self) -> list[Volume]:
        return list(self._volumes.values())

    def get(self, name: str) -> Volume:
        try:
            return self._volumes[name]
        except KeyError:
            raise NotFound(f"get {name}: no such volume") from None

    def path(self, name: str) -> Path:
        return Path("/var/lib/weft/volumes", name, "_data")

    async def create(self, volume: Volume) -> bool:
        check_name(volume.name)
        if volume.name in self._volumes:
            return False
        self._volumes[volume.name] = volume
        return True

    async def remove(self, name: str) -> None:
        self.get(name)
        if self.fail:
            raise OperationFailed(self.fail.pop(0))
        del self._volumes[name]

    async def size(self, name: str) -> int:
        self.get(name)
        return self.sizes.get(name, 0)
