"""Volumes: requests, and the JSON of `list` and `inspect`."""

from typing import ClassVar

from msgspec import field

from weft.api.schema.common import Json, Wire, rfc3339
from weft.model.meta import SECOND
from weft.model.volume import Volume


class VolumeWire(Wire, frozen=True):
    """`POST /volumes/create`"""

    lacks: ClassVar[tuple[str, ...]] = ("ClusterVolumeSpec",)

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


def volume_json(volume: Volume, path: str) -> Json:
    return {
        "CreatedAt": rfc3339(volume.created_at // SECOND * SECOND),
        "Driver": volume.driver,
        "Labels": volume.labels or None,
        "Mountpoint": path,
        "Name": volume.name,
        "Options": volume.options or None,
        "Scope": "local",
    }
