"""The mounts of a plain container, which a request may write in five ways: `Binds` (`-v`), `Mounts`
(`--mount`), `Tmpfs`, `Volumes` and `VolumesFrom`."""

from collections.abc import Iterable, Mapping
from typing import cast, get_args

import msgspec

from weft.api.schema.container_wire import HostConfigWire
from weft.api.schema.mount import mount_from
from weft.errors import InvalidArgument, clip
from weft.model.mount import BindOptions, Propagation, VolumeOptions
from weft.model.service import Mount
from weft.model.volume import MountPoint, clean

_MODES = ("ro", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated")
"""`z` and `Z` are for SELinux, the last three for hosts that do not run Linux."""
_TMPFS_FLAGS = (
    "ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "remount", "atime", "noatime",
    "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nostrictatime",
)  # fmt: skip
_TMPFS_VALUES = ("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol")


def mounts_from(
    host: HostConfigWire,
    volumes: Iterable[str],
    inherited: Iterable[Mount],
    read_only_trees: bool = True,
) -> tuple[Mount, ...]:
    """`read_only_trees`: see `bind_from`. A later way wins over an earlier one with the same target, as in Docker, but for two of the
    user's own. Raises `InvalidArgument` or `Unsupported`."""
    own = [
        *(bind_from(text, read_only_trees) for text in host.binds),
        *(mount_from(wire, f"HostConfig.Mounts[{i}]") for i, wire in enumerate(host.mounts)),
        *(_tmpfs_from(target, text) for target, text in host.tmpfs.items()),
    ]
    seen: set[str] = set()
    for mount in own:
        if clean(mount.target) in seen:
            raise InvalidArgument(f"Duplicate mount point: {mount.target}")
        seen.add(clean(mount.target))
    found = {clean(mount.target): mount for mount in inherited} | {
        clean(mount.target): mount for mount in own
    }
    for target in volumes:
        found.setdefault(clean(target), Mount(type="volume", target=target))
    return tuple(found.values())


def bind_from(text: str, read_only_trees: bool = True) -> Mount:
    """`/source:/target[:modes]` or `volume:/target[:modes]`. `read_only_trees`: whether a read-only
    path of the host is so with all that is mounted below it."""
    source, _, rest = text.partition(":")
    target, _, modes = rest.partition(":")
    if not source or not target or ":" in modes:
        raise InvalidArgument(f"invalid volume specification: '{clip(text)}'")
    words = modes.split(",") if modes else []
    propagation = [word for word in words if word in get_args(Propagation)]
    unknown = [word for word in words if word not in (*_MODES, *get_args(Propagation))]
    if unknown or len(propagation) > 1 or {"ro", "rw"} <= set(words):
        raise InvalidArgument(f"invalid mode: {clip(modes)}")
    read_only = "ro" in words
    if source.startswith("/"):
        options = BindOptions(
            propagation=cast(Propagation, propagation[0] if propagation else ""),
            create_mountpoint=True,
            read_only_non_recursive=read_only and not read_only_trees,
        )
        return Mount(type="bind", source=source, target=target, read_only=read_only, bind=options)
    if propagation:
        raise InvalidArgument(f"invalid mode: {clip(modes)}")
    volume = VolumeOptions(no_copy=True) if "nocopy" in words else None
    return Mount(type="volume", source=source, target=target, read_only=read_only, volume=volume)


def _tmpfs_from(target: str, text: str) -> Mount:
    options = []
    for word in filter(None, text.split(",")):
        name, given, value = word.partition("=")
        if name not in (_TMPFS_VALUES if given else _TMPFS_FLAGS):
            raise InvalidArgument(
                f'invalid tmpfs option for "{clip(target)}": invalid option {clip(word)!r}'
            )
        if word not in ("ro", "rw"):
            options.append((name, value) if given else (name,))
    read_only = "ro" in text.split(",")
    return Mount(type="tmpfs", target=target, read_only=read_only, tmpfs_options=tuple(options))


def inherited_from(text: str, points: Mapping[str, Iterable[MountPoint]]) -> list[Mount]:
    """The mounts for `container[:ro|rw]` of `VolumesFrom`. `points`: of the container that the user
    names, by that name."""
    name, _, mode = text.partition(":")
    if mode not in ("", "ro", "rw", "z", "Z"):
        raise InvalidArgument(f"invalid mode: {clip(mode)}")
    return [
        _again(point, read_only=point.read_only or mode == "ro")
        for point in points[name]
        if point.type != "tmpfs"
    ]


def _again(point: MountPoint, *, read_only: bool) -> Mount:
    request = point.request
    source = point.name if point.type == "volume" else point.source
    mount = request or Mount(type=point.type, target=point.destination)
    return msgspec.structs.replace(
        mount, source=source, target=point.destination, read_only=read_only
    )
