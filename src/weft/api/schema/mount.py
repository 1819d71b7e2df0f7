"""Mounts: what a service or a container asks for, and what `inspect` of a container shows.

Decoding refuses only what the model has no place for; `control.requests.mounts` decides whether a
mount makes sense.
"""

from typing import cast, get_args

from msgspec import field

from weft.api.schema.common import Count, Json, Wire, omit_empty
from weft.api.schema.decoding import is_zero
from weft.errors import InvalidArgument, Unsupported, clip
from weft.model.mount import BindOptions, Propagation, VolumeDriver, VolumeOptions
from weft.model.service import Mount, MountType
from weft.model.volume import LOCAL, MountPoint

_TYPES = ("bind", "volume", "tmpfs")
_UNSUPPORTED = ("npipe", "cluster", "image")


class BindWire(Wire, frozen=True):
    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverWire(Wire, frozen=True):
    name: str = ""
    options: dict[str, str] = field(default_factory=dict)


class VolumeOptionsWire(Wire, frozen=True):
    no_copy: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    driver_config: DriverWire | None = None
    subpath: str = ""


class TmpfsWire(Wire, frozen=True):
    size_bytes: Count = 0
    mode: Count = 0
    options: tuple[tuple[str, ...], ...] = ()


class MountWire(Wire, frozen=True):
    type: str = ""
    """Of a service: `bind` if it is empty."""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    """Only for hosts that do not run Linux: Docker's services drop the field."""
    bind_options: BindWire | None = None
    volume_options: VolumeOptionsWire | None = None
    tmpfs_options: TmpfsWire | None = None
    image_options: Json = field(default_factory=dict)
    cluster_options: Json = field(default_factory=dict)
    """These two belong to types that Weft does not support."""


def mount_from(wire: MountWire, path: str) -> Mount:
    """`path`: of the mount in the request. Raises `InvalidArgument` or `Unsupported`."""
    type_ = wire.type.lower() or "bind"
    if type_ in _UNSUPPORTED:
        raise Unsupported(f"{path}.Type: mounts of type {type_} are not supported by Weft")
    if type_ not in _TYPES:
        raise InvalidArgument(f'{path}.Type: invalid MountType: "{clip(wire.type)}"')
    for name, value in (
        ("ImageOptions", wire.image_options),
        ("ClusterOptions", wire.cluster_options),
    ):
        if not is_zero(value):
            raise InvalidArgument(
                f'invalid mount config for type "{type_}": field {name} must not be specified'
            )
    bind, volume, tmpfs = wire.bind_options, wire.volume_options, wire.tmpfs_options or TmpfsWire()
    if bind == BindWire():  # says nothing, and Docker's services drop it
        bind = None
    if type_ != "volume" and volume == VolumeOptionsWire():
        volume = None
    return Mount(
        type=cast(MountType, type_),
        source=wire.source,
        target=wire.target,
        read_only=wire.read_only,
        bind=None if bind is None else _bind_from(bind, path),
        volume=None if volume is None else _volume_from(volume, path),
        tmpfs_size=tmpfs.size_bytes,
        tmpfs_mode=tmpfs.mode,
        tmpfs_options=tmpfs.options,
    )


def _bind_from(wire: BindWire, path: str) -> BindOptions:
    if wire.propagation not in get_args(Propagation):
        raise InvalidArgument(
            f'{path}.BindOptions.Propagation: invalid MountPropagation: "{clip(wire.propagation)}"'
        )
    return BindOptions(
        propagation=cast(Propagation, wire.propagation),
        non_recursive=wire.non_recursive,
        create_mountpoint=wire.create_mountpoint,
        read_only_non_recursive=wire.read_only_non_recursive,
        read_only_force_recursive=wire.read_only_force_recursive,
    )


def _volume_from(wire: VolumeOptionsWire, path: str) -> VolumeOptions:
    driver = wire.driver_config
    if driver is not None and driver.name not in ("", LOCAL):
        raise Unsupported(
            f"{path}.VolumeOptions.DriverConfig.Name: the volume driver {clip(driver.name)} is not"
            " supported by Weft"
        )
    return VolumeOptions(
        no_copy=wire.no_copy,
        labels=wire.labels,
        driver=None if driver is None else VolumeDriver(driver.name, driver.options),
        subpath=wire.subpath,
    )


def mount_json(mount: Mount) -> Json:
    """As it was asked for."""
    body: Json = {"Type": mount.type} | omit_empty(
        {"Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only}
    )
    if mount.bind is not None:
        body["BindOptions"] = omit_empty(
            {
                "Propagation": mount.bind.propagation,
                "NonRecursive": mount.bind.non_recursive,
                "CreateMountpoint": mount.bind.create_mountpoint,
                "ReadOnlyNonRecursive": mount.bind.read_only_non_recursive,
                "ReadOnlyForceRecursive": mount.bind.read_only_force_recursive,
            }
        )
    if mount.volume is not None:
        body["VolumeOptions"] = _volume_json(mount.volume)
    tmpfs = omit_empty(
        {
            "SizeBytes": mount.tmpfs_size,
            "Mode": mount.tmpfs_mode,
            "Options": [list(option) for option in mount.tmpfs_options],
        }
    )
    return body | ({"TmpfsOptions": tmpfs} if tmpfs else {})


def _volume_json(options: VolumeOptions) -> Json:
    body = omit_empty(
        {"NoCopy": options.no_copy, "Labels": options.labels, "Subpath": options.subpath}
    )
    if options.driver is not None:
        body["DriverConfig"] = omit_empty(
            {"Name": options.driver.name, "Options": options.driver.options}
        )
    return body


def mount_point_json(point: MountPoint) -> Json:
    """As the container has it."""
    return {
        "Type": point.type,
        **omit_empty({"Name": point.name}),
        "Source": point.source,
        "Destination": point.destination,
        **omit_empty({"Driver": point.driver}),
        "Mode": point.mode,
        "RW": not point.read_only,
        "Propagation": point.propagation,
    }
