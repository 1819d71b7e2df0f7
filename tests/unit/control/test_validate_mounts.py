"""Mounts that no container could have are refused with Docker's texts before a node sees them."""

from typing import Any

import pytest

from weft.control.requests.mounts import validate_mounts
from weft.errors import InvalidArgument
from weft.model.mount import BindOptions, VolumeDriver, VolumeOptions
from weft.model.service import Mount


def bind(**fields: Any) -> Mount:
    return Mount(type="bind", **{"source": "/a", "target": "/b", **fields})


def volume(source: str = "data", target: str = "/b", **options: Any) -> Mount:
    return Mount(
        type="volume",
        source=source,
        target=target,
        volume=VolumeOptions(**options),
    )


def driver(**options: str) -> VolumeDriver:
    return VolumeDriver("local", options)


def tmpfs(*options: tuple[str, ...], **fields: Any) -> Mount:
    return Mount(type="tmpfs", target="/b", tmpfs_options=options, **fields)


@pytest.mark.parametrize(
    ("mount", "text"),
    [
        (bind(target=""), "field Target must not be empty"),
        (bind(target="/"), "invalid specification: destination can't be '/'"),
        (bind(target="/x/.."), "invalid specification: destination can't be '/'"),
        (bind(target="b"), "invalid mount path: 'b' mount path must be absolute"),
        (bind(target="/b\0"), "a path has a NUL in it"),
        (bind(source=""), "field Source must not be empty"),
        (bind(source="a"), "invalid mount path: 'a' mount path must be absolute"),
        (bind(volume=VolumeOptions()), "field VolumeOptions must not be specified"),
        (bind(tmpfs_size=1), "field TmpfsOptions must not be specified"),
        (
            bind(bind=BindOptions(read_only_non_recursive=True)),
            "mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive",
        ),
        (
            bind(bind=BindOptions(read_only_force_recursive=True)),
            "mount options conflict: !ReadOnly && BindOptions.ReadOnlyForceRecursive",
        ),
        (
            bind(
                read_only=True,
                bind=BindOptions(read_only_non_recursive=True, read_only_force_recursive=True),
            ),
            "mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive",
        ),
        (volume("/data"), "invalid volume mount source, must not be an absolute path: /data"),
        (volume("../data"), '"../data" includes invalid characters for a local volume name, only'),
        (volume("d"), "volume name is too short, names should be at least two"),
        (volume("d" * 256), "volume name is too long"),
        (volume("", subpath="x"), "must not set Subpath when using anonymous volumes"),
        (volume(subpath="../x"), "subpath must be a relative path within the volume"),
        (volume(subpath="x/../../y"), "subpath must be a relative path within the volume"),
        (volume(subpath="/x"), "subpath must be a relative path within the volume"),
        (volume(driver=driver(speed="1")), 'invalid option: "speed"'),
        (volume(driver=driver(type="nfs")), 'missing required option: "device"'),
        (volume(driver=driver(device="/x")), 'missing required option: "type"'),
        (volume(driver=driver(o="ro")), 'missing required option: "device"'),
        (volume(driver=driver(size="10g")), "quota size requested but no quota support"),
        (volume(driver=driver(size="ten")), "invalid size: 'ten'"),
        (
            volume(driver=driver(type="cifs", device="//host:445/x")),
            "port not allowed in CIFS device URL, include 'port' in 'o='",
        ),
        (tmpfs(source="/a"), "field Source must not be specified"),
        (tmpfs(("uid", "5")), "invalid option: uid"),
        (tmpfs(("exec", "1", "2")), "invalid option array length"),
    ],
)
def test_a_bad_mount_is_refused(mount: Mount, text: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        validate_mounts([mount])
    assert str(raised.value).startswith(f'invalid mount config for type "{mount.type}": {text}')


def test_two_mounts_at_one_place_are_refused_however_they_are_spelt() -> None:
    with pytest.raises(InvalidArgument, match="ContainerSpec: duplicate mount point: /b/./"):
        validate_mounts([bind(), tmpfs(), bind(target="/b/./")][1:])


def test_good_mounts_pass() -> None:
    validate_mounts(
        [
            bind(target="/b1", read_only=True, bind=BindOptions(read_only_force_recursive=True)),
            volume("", "/b2"),
            volume(
                "data", "/b3", subpath="a/../b", driver=driver(type="none", o="bind", device="/x")
            ),
            volume("data-2.x_y", "/b4", driver=driver(type="cifs", device="//host/x", size="0")),
            tmpfs(("exec",)),
        ]
    )
