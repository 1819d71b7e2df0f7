"""Volumes on the real disk and, for what both promise, in memory: making, finding again after the
daemon, damage, file systems that are mounted, removal."""

import asyncio
import ctypes
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from weft.errors import Damaged, InvalidArgument, NotFound, OperationFailed
from weft.model.volume import Volume
from weft.runtime.base import Volumes
from weft.runtime.fake_volumes import FakeVolumes
from weft.runtime.mounts import is_mount_point, mount_points_below
from weft.runtime.volume_mounts import HostPath, VolumeMounts
from weft.runtime.volumes import LocalVolumes

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    left = mount_points_below(tmp_path)
    for point in left:
        subprocess.run(["umount", "-l", point], check=True)
    assert [point for point in left if point != tmp_path / "volumes"] == []


def local(root: Path, mounts: VolumeMounts | None = None) -> LocalVolumes:
    volumes = LocalVolumes(root, mounts)
    volumes.load()
    return volumes


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(bounded())


def tmpfs(name: str, o: str = "size=1m") -> Volume:
    return Volume(name=name, options={"type": "tmpfs", "device": "tmpfs", "o": o})


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_what_every_store_of_volumes_does(kind: str, root: Path) -> None:
    volumes: Volumes = local(root) if kind == "real" else FakeVolumes()

    async def test() -> None:
        data = Volume(name="data", labels={"a": "b"}, created_at=7)
        assert await volumes.create(data)
        assert not await volumes.create(Volume(name="data"))
        assert volumes.get("data") == data
        assert volumes.all() == [data]
        assert volumes.path("data").parts[-3:] == ("volumes", "data", "_data")
        assert await volumes.size("data") == 0
        for name in ("x", "../data", ".hidden", "a/b", "n" * 256, ""):
            with pytest.raises(InvalidArgument):
                await volumes.create(Volume(name=name))
        await volumes.remove("data")
        for again in (volumes.get, volumes.remove):
            with pytest.raises(NotFound, match="^get data: no such volume$"):
                found = again("data")
                if isinstance(found, Awaitable):
                    await found
        assert volumes.all() == []

    run(test)


def test_the_next_daemon_finds_whole_volumes_and_clears_the_rest(root: Path) -> None:
    async def test() -> None:
        first = local(root)
        await first.create(Volume(name="data", labels={"a": "b"}, options={}, created_at=7))
        (first.path("data") / "file").write_text("hello")
        os.link(first.path("data") / "file", first.path("data") / "again")
        for half in (".new-1234", ".gone-1234"):
            (root / "volumes" / half / "_data").mkdir(parents=True)
        second = local(root)
        assert second.all() == first.all()
        assert await second.size("data") == 5
        modes = [
            path.stat().st_mode & 0o777
            for path in (second.path("data").parent, second.path("data"))
        ]
        assert modes == [0o701, 0o755]
        await second.remove("data")
        assert list((root / "volumes").iterdir()) == []

    run(test)


@pytest.mark.parametrize("content", [b"", b'{"name":"da', b"null", b'{"name":"other"}', b"\xff"])
def test_a_damaged_record_is_named_and_the_files_stay(
    root: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        await local(root).create(tmpfs("data"))
        record = root / "volumes" / "data" / "volume.json"
        record.write_bytes(content)
        volumes = local(root)
        assert [volume.name for volume in volumes.all()] == ["data"]
        with pytest.raises(Damaged, match=f"cannot use volume data: cannot read {record}"):
            await volumes.mount("data")
        assert str(record) in caplog.text
        assert record.read_bytes() == content
        await volumes.remove("data")
        assert await volumes.create(Volume(name="data"))
        await volumes.mount("data")

    run(test)


def test_a_missing_record_is_made_anew_and_what_is_no_volume_is_left_alone(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = root / "volumes"
    (place / "restored" / "_data").mkdir(parents=True)
    (place / "restored" / "_data" / "file").touch()
    (place / "nothing").mkdir()
    (place / "file").touch()
    (place / "link").symlink_to("/")
    with caplog.at_level(logging.WARNING):
        assert [volume.name for volume in local(root).all()] == ["restored"]
    assert "volume.rebuilt volume=restored" in caplog.text
    assert all(
        f"volume.skipped path={place / name}" in caplog.text for name in ("nothing", "file", "link")
    )
    assert [volume.name for volume in local(root).all()] == ["restored"]
    assert (place / "restored" / "_data" / "file").exists()


def test_a_file_system_is_mounted_once_and_unmounted_when_nobody_uses_it(root: Path) -> None:
    async def test() -> None:
        volumes = local(root)
        await volumes.create(tmpfs("scratch", "size=1m,mode=700,uid=5"))
        place = volumes.path("scratch")
        await asyncio.gather(*(volumes.mount("scratch") for _ in range(3)))
        assert mount_points_below(place.parent) == [place]
        assert (place.stat().st_uid, place.stat().st_mode & 0o777) == (5, 0o700)
        (place / "file").touch()
        await volumes.unmount("scratch", lambda: True)
        assert is_mount_point(place)
        assert local(root).mounted() == ["scratch"]
        await volumes.unmount("scratch", lambda: False)
        assert not is_mount_point(place)
        await volumes.mount("scratch")
        assert list(place.iterdir()) == []
        await volumes.remove("scratch")
        await volumes.close()

    run(test)


def test_a_bind_is_read_only_if_it_says_so_and_needs_its_device(root: Path) -> None:
    async def test() -> None:
        volumes = local(root)
        device = root / "device"
        options = {"type": "none", "o": "bind,ro", "device": str(device)}
        await volumes.create(Volume(name="bound", options=options))
        place = volumes.path("bound")
        with pytest.raises(
            OperationFailed,
            match=f"error while mounting volume '{place}': failed to mount local volume: mount"
            f" {device}:{place}, data: bind,ro: no such file or directory",
        ):
            await volumes.mount("bound")
        device.mkdir()
        (device / "file").touch()
        await volumes.mount("bound")
        assert [path.name for path in place.iterdir()] == ["file"]
        with pytest.raises(OSError, match="Read-only"):
            (place / "file").write_text("x")
        await volumes.remove("bound")
        assert (device / "file").exists()
        await volumes.close()

    run(test)


def test_a_file_server_that_does_not_answer_is_given_up(root: Path) -> None:
    async def test() -> None:
        silent = VolumeMounts(0.1, (sys.executable, "-c", "import time; time.sleep(1000)"))
        volumes = local(root, silent)
        options = {"type": "cifs", "device": "//h/x", "o": "user=a,password=secret"}
        await volumes.create(Volume(name="far", options=options))
        with pytest.raises(OperationFailed, match=r"no answer within 0\.1 s") as raised:
            await volumes.mount("far")
        assert "password=********" in str(raised.value)
        assert "secret" not in str(raised.value)
        await volumes.create(Volume(name="near"))
        await volumes.mount("near")
        await volumes.close()

    run(test)


def test_paths_of_the_host_are_found_in_order_up_to_the_first_that_is_missing(root: Path) -> None:
    async def test() -> None:
        mounts = VolumeMounts()
        strange = root / "a\nb\udcff"
        strange.mkdir(parents=True)
        (root / "link").symlink_to(strange)
        asked = [HostPath(str(root / "link")), HostPath(str(root / "made/x"), make=True)]
        real = [sight.real for sight in await mounts.find(asked)]
        assert real == [strange.resolve(), (root / "made/x").resolve()]
        assert (root / "made/x").stat().st_mode & 0o777 == 0o755
        missing = [HostPath(str(root / "nope")), HostPath(str(root / "never"), make=True)]
        sights = await mounts.find([*asked, *missing])
        assert [sight.trouble for sight in sights] == ["", "", "no such file or directory"]
        assert not (root / "never").exists()
        (root / "file").touch()
        [beneath] = await mounts.find([HostPath(str(root / "file/x"), make=True)])
        assert beneath.trouble == "not a directory"
        assert len(await mounts.find([HostPath("/" + "x/" * 2000)] * 3 + asked)) == 1
        assert await mounts.find([]) == []
        with pytest.raises(OperationFailed, match="NUL"):
            await mounts.find([HostPath("/a\0+/b")])
        await mounts.close()

    run(test)


@contextmanager
def unanswered(directory: Path) -> Iterator[None]:
    """A file system at `directory` whose server never answers, as a dead NFS server's."""
    directory.mkdir()
    server = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={server},rootmode=40000,user_id=0,group_id=0".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"silent", os.fsencode(directory), b"fuse", 0, options) == 0
    try:
        yield
    finally:
        os.close(server)
        subprocess.run(["umount", "-l", directory], check=True)


def test_a_path_that_the_kernel_waits_for_is_given_up_and_blocks_nobody_else(root: Path) -> None:
    async def test() -> None:
        mounts = VolumeMounts(1.0)
        volumes = local(root, mounts)
        device = str(root / "silent" / "x")
        options = {"type": "none", "o": "bind", "device": device}
        await volumes.create(Volume(name="far", options=options))
        await volumes.create(tmpfs("near"))
        with unanswered(root / "silent"):
            far = asyncio.create_task(volumes.mount("far"))
            wanted = [HostPath(str(root)), HostPath(device), HostPath("/")]
            find = asyncio.create_task(mounts.find(wanted))
            await volumes.mount("near")
            for waiting in (far, find):
                with pytest.raises(OperationFailed, match=f"{device}.*server does not respond"):
                    await waiting
            assert volumes.mounted() == ["near"]
            await volumes.remove("far")
            async with asyncio.timeout(10):  # the programs have ended, and are reaped
                while mounts.left_over:
                    await asyncio.sleep(0.02)
        await volumes.remove("near")

    run(test)


def test_what_somebody_else_mounted_in_a_volume_is_not_removed_with_it(root: Path) -> None:
    async def test() -> None:
        volumes = local(root)
        await volumes.create(Volume(name="data"))
        inner = volumes.path("data") / "inner"
        inner.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inner], check=True)
        (inner / "precious").touch()
        with pytest.raises(OperationFailed, match=f"remove data: {inner} is mounted"):
            await volumes.remove("data")
        assert (inner / "precious").exists()
        subprocess.run(["umount", inner], check=True)
        await volumes.remove("data")

    run(test)
