"""Layers of images on the real file system: what the store unpacks, what it refuses, and how layers
are mounted."""

import asyncio
import bz2
import gzip
import hashlib
import lzma
import os
import stat
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.image_store import directory, docker_archive, file, layer_of, load, tar_of
from weft.errors import InvalidArgument
from weft.runtime.images import ImageStore
from weft.runtime.mounts import mount_overlay, unmount

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.mark.parametrize("compress", [False, True])
def test_a_layer_keeps_modes_owners_links_devices_and_attributes(
    store: ImageStore, compress: bool
) -> None:
    owned, content = file("bin/tool", b"x", 0o4755)
    owned.uid, owned.gid, owned.pax_headers = 12, 34, {
        "SCHILY.xattr.user.note": "hello", "SCHILY.xattr.trusted.overlay.redirect": "/x", "SCHILY.xattr.user.overlay.opaque": "y",
    }  # fmt: skip
    device, _ = file("null", kind=tarfile.CHRTYPE, mode=0o666)
    device.devmajor, device.devminor = 1, 3
    entries = [
        directory("bin", 0o711),
        (owned, content),
        file("hard", kind=tarfile.LNKTYPE, link="bin/tool"),
    ]
    entries += [
        file("soft", kind=tarfile.SYMTYPE, link="/bin/tool"),
        (device, b""),
        file("pipe", kind=tarfile.FIFOTYPE),
    ]
    load(store, docker_archive("demo", tar_of(*entries), compress=compress))
    layer = layer_of(store, "demo")
    tool = (layer / "bin/tool").stat()
    assert (stat.S_IMODE(tool.st_mode), tool.st_uid, tool.st_gid, tool.st_nlink) == (
        0o4755,
        12,
        34,
        2,
    )
    assert os.getxattr(layer / "hard", "user.note") == b"hello"
    assert os.listxattr(layer / "hard") == ["user.note"], (
        "what overlayfs reads is not for images to say"
    )
    assert (layer / "soft").readlink() == Path("/bin/tool")
    assert (layer / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISFIFO((layer / "pipe").stat().st_mode)
    assert (stat.S_IMODE((layer / "bin").stat().st_mode), (layer / "bin").stat().st_mtime) == (
        0o711,
        1_600_000_000,
    )


@pytest.mark.usefixtures("any_umask")
def test_an_image_is_open_to_its_containers_and_closed_to_the_host(
    store: ImageStore, tmp_path: Path
) -> None:
    """Whatever the umask: parents that the layer does not name, too, are open to all in a
    container."""
    entries = [
        file("usr/lib/app/run", b"x", 0o6755),
        directory("var", 0o1777),
        file("etc/app/conf", mode=0o666),
    ]
    load(store, docker_archive("demo", tar_of(*entries)))
    layer = layer_of(store, "demo")
    modes = {
        str(path.relative_to(layer)): stat.S_IMODE(path.stat().st_mode)
        for path in (layer, *layer.rglob("*"))
    }
    assert modes == {
        ".": 0o755, "usr": 0o755, "usr/lib": 0o755, "usr/lib/app": 0o755, "usr/lib/app/run": 0o6755, "var": 0o1777,
        "etc": 0o755, "etc/app": 0o755, "etc/app/conf": 0o666,
    }  # fmt: skip
    for path in (tmp_path / "images", layer.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path


def test_whiteouts_hide_what_is_below(store: ImageStore, tmp_path: Path) -> None:
    lower = tar_of(
        directory("d"),
        file("d/gone", b"1"),
        file("d/stays", b"2"),
        directory("o"),
        file("o/old", b"3"),
    )
    upper = tar_of(
        directory("d"),
        file("d/.wh.gone"),
        directory("o"),
        file("o/.wh..wh..opq"),
        file("o/new", b"4"),
    )
    load(store, docker_archive("demo", lower, upper))
    for name in ("up", "work", "all"):
        (tmp_path / name).mkdir()
    mount_overlay(
        store.layer_directories(store.find("demo")),
        tmp_path / "up",
        tmp_path / "work",
        tmp_path / "all",
    )
    try:
        assert sorted(
            str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*")
        ) == [
            "d",
            "d/stays",
            "o",
            "o/new",
        ]
    finally:
        unmount(tmp_path / "all")


def test_a_hundred_layers_below_a_long_path_can_be_mounted(tmp_path: Path) -> None:
    base = tmp_path / ("long" * 40)
    layers = [base / f"{number:064}" for number in range(100)]
    for path in (*layers, base / "up", base / "work", base / "all"):
        path.mkdir(parents=True)
        (path / path.name[-3:]).touch()
    (base / "work" / "ork").unlink()
    mount_overlay(layers, base / "up", base / "work", base / "all")
    try:
        assert {path.name for path in (base / "all").iterdir()} == {
            f"{number:03}" for number in range(100)
        } | {"up"}
    finally:
        unmount(base / "all")


def test_a_layers_names_stay_in_the_layer(store: ImageStore, tmp_path: Path) -> None:
    way = file("way", kind=tarfile.SYMTYPE, link=f"../../..{tmp_path}/outside")
    inside = directory(f"{tmp_path}/outside"[1:])
    load(store, docker_archive("demo", tar_of(inside, way, file("way/file", b"x"))))
    assert (layer_of(store, "demo") / str(tmp_path)[1:] / "outside" / "file").read_bytes() == b"x"
    assert not (tmp_path / "outside").exists()


def test_a_hard_link_cannot_reach_a_file_of_the_host(store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    climbing = f"../../../..{tmp_path}/secret"
    for target in (climbing, str(tmp_path / "secret")):
        link = file("link", kind=tarfile.LNKTYPE, link=target)
        with pytest.raises(InvalidArgument, match="cannot unpack layer"):
            load(store, docker_archive("demo", tar_of(link)))
    assert store.all() == []
    assert list((tmp_path / "images" / "layers").iterdir()) == []


def test_a_layers_directories_have_their_own_times_and_modes(store: ImageStore) -> None:
    umask = os.umask(0o077)
    try:
        entries = [
            directory("d", 0o750),
            file("d/a"),
            directory("d/e"),
            file("d/e/b"),
            directory("."),
            file("x/y/z"),
        ]
        entries[4][0].mode, entries[4][0].uid = 0o700, 5
        load(store, docker_archive("demo", tar_of(*entries)))
    finally:
        os.umask(umask)
    layer = layer_of(store, "demo")
    assert [(layer / name).stat().st_mtime for name in ("d", "d/e")] == [1_600_000_000] * 2
    assert stat.S_IMODE((layer / "d").stat().st_mode) == 0o750
    made = [(layer / name).stat() for name in (".", "x", "x/y")]
    assert [(stat.S_IMODE(status.st_mode), status.st_uid) for status in made] == [(0o755, 0)] * 3


def test_whiteouts_and_a_layers_own_files(store: ImageStore, tmp_path: Path) -> None:
    """What a layer has itself it keeps; what is below stays hidden, also if a directory of that
    name follows."""
    lower = tar_of(*[file(f"{name}/old", b"1") for name in ("own", "after", "gone")])
    own = [
        file("own/new", b"2"),
        file(".wh.own"),
        file(".wh.after"),
        directory("after"),
        file("after/new", b"3"),
        file(".wh.gone"),
    ]
    load(store, docker_archive("demo", lower, tar_of(*own, file(".wh.after"))))
    for name in ("up", "work", "all"):
        (tmp_path / name).mkdir()
    mount_overlay(
        store.layer_directories(store.find("demo")),
        tmp_path / "up",
        tmp_path / "work",
        tmp_path / "all",
    )
    try:
        found = {str(path.relative_to(tmp_path / "all")) for path in (tmp_path / "all").rglob("*")}
    finally:
        unmount(tmp_path / "all")
    assert found == {"own", "own/new", "after", "after/new"}


def test_a_layer_that_an_image_has_twice_is_mounted_once(store: ImageStore, tmp_path: Path) -> None:
    empty, one, two = tar_of(), tar_of(file("f", b"1")), tar_of(file("f", b"2"))
    load(store, docker_archive("demo", empty, one, empty, two, empty, one))
    for name in ("up", "work", "all"):
        (tmp_path / name).mkdir()
    mount_overlay(
        store.layer_directories(store.find("demo")),
        tmp_path / "up",
        tmp_path / "work",
        tmp_path / "all",
    )
    try:
        assert (tmp_path / "all" / "f").read_text() == "1"
    finally:
        unmount(tmp_path / "all")
    assert asyncio.run(store.remove("demo"))[2:] == [
        ("Deleted", f"sha256:{hashlib.sha256(layer).hexdigest()}") for layer in (one, empty, two)
    ]


@pytest.mark.parametrize(
    "compress", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd.compress]
)
def test_layers_and_archives_may_be_compressed(
    store: ImageStore, compress: Callable[[bytes], bytes]
) -> None:
    layer = tar_of(file("a", b"12345"))
    load(store, compress(docker_archive("demo", layer, stored=compress(layer))))
    assert (layer_of(store, "demo") / "a").read_bytes() == b"12345"
