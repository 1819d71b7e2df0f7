"""What is mounted into containers, by the real runc: volumes, parts of volumes, binds with their
options, and what is left of them after a daemon that was killed."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, configure, with_runtime
from weft.errors import InvalidArgument, OperationFailed
from weft.model.container import ContainerConfig
from weft.model.mount import BindOptions, VolumeOptions
from weft.model.service import Mount
from weft.model.volume import MountPoint, Volume, point_of
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.mounts import is_mount_point, mount_points_below

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive
FILES = "ls -A /etc | grep -v -e host -e resolv -e mtab"
"""Without those that the daemon makes."""
SCRATCH = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}


def having(host: Host, *mounts: Mount | MountPoint, command: str = "true") -> ContainerConfig:
    """A container with these mounts, as the engine resolves them."""
    points = [point_of(mount) if isinstance(mount, Mount) else mount for mount in mounts]
    points = [
        msgspec.structs.replace(point, source=str(host.volumes.path(point.name)))
        if point.type == "volume"
        else point
        for point in points
    ]
    config = configure("sh", "-c", command)
    return msgspec.structs.replace(config, mounts=tuple(points))


def volume(name: str = "data", target: str = "/v", **options: Any) -> Mount:
    return Mount(type="volume", source=name, target=target, volume=VolumeOptions(**options))


def bind(source: Path, **options: Any) -> Mount:
    read_only = options.pop("read_only", False)
    return Mount(
        type="bind",
        source=str(source),
        target="/v",
        read_only=read_only,
        bind=BindOptions(**options),
    )


async def said(runtime: ConmonRuntime, config: ContainerConfig) -> str:
    """What the container wrote; it is removed."""
    await runtime.create(config)
    await runtime.start(config.id)
    await runtime.wait(config.id)
    text = b"".join([line.data async for line in runtime.logs(config.id)]).decode()
    await runtime.remove(config.id)
    return text.strip()


@with_runtime
async def test_an_empty_volume_gets_the_images_files_once(
    runtime: ConmonRuntime, host: Host
) -> None:
    await host.volumes.create(Volume(name="data"))
    etc = volume(target="/etc/../etc/")
    image = await said(runtime, having(host, command=FILES))
    first = await said(
        runtime,
        having(
            host,
            etc,
            command=f"{FILES}; rm /etc/passwd; hostname > /etc/mine",
        ),
    )
    assert first == image
    assert "passwd" in image
    again = await said(
        runtime, having(host, volume(target="/etc"), command="cat /etc/mine; ls /etc/passwd")
    )
    assert again.splitlines()[1:] == ["ls: /etc/passwd: No such file or directory"]
    await host.volumes.create(Volume(name="bare"))
    assert await said(
        runtime, having(host, volume("bare", "/etc", no_copy=True), command="ls -A /etc")
    ) in ("", "hostname\nhosts\nresolv.conf")
    asked_by_image = MountPoint(type="volume", destination="/bin/sh", name="bare")
    with pytest.raises(
        InvalidArgument, match="cannot mount volume over existing file, file exists /bin/sh"
    ):
        await runtime.create(having(host, asked_by_image))
    assert host.leftovers() == []


@with_runtime
async def test_what_a_killed_daemon_had_begun_to_copy_is_copied_anew(
    runtime: ConmonRuntime, host: Host
) -> None:
    await host.volumes.create(Volume(name="data"))
    place = host.volumes.path("data")
    (place / "half").mkdir()
    (place.parent / "copying").touch()
    assert (
        "passwd"
        in (await said(runtime, having(host, volume(target="/etc"), command="ls /etc"))).split()
    )
    assert not (place / "half").exists()
    assert not (place.parent / "copying").exists()


def test_a_file_system_is_mounted_as_long_as_containers_run(host: Host) -> None:
    async def body() -> None:
        runtime = await host.runtime()
        await host.volumes.create(Volume(name="scratch", options=SCRATCH))
        place = host.volumes.path("scratch")
        script = "touch /v/$HOSTNAME; sleep 1000"
        first, second = (having(host, volume("scratch"), command=script) for _ in "ab")
        await asyncio.gather(runtime.create(first), runtime.create(second))
        await asyncio.gather(runtime.start(first.id), runtime.start(second.id))
        await until(lambda: len(list(place.iterdir())) == 2)
        await runtime.stop(first.id, 0)
        await runtime.remove(first.id)
        assert is_mount_point(place)
        await runtime.close()

        # The next daemon finds the mount, and the container that has it.
        runtime = await host.runtime()
        assert is_mount_point(place)
        await runtime.stop(second.id, 0)
        await until(lambda: not is_mount_point(place))
        await runtime.close()

        # One that was killed has left a mount that no container has.
        await host.volumes.mount("scratch")
        runtime = await host.runtime()
        assert not is_mount_point(place)
        await runtime.start(second.id)
        assert is_mount_point(place)
        await until(lambda: [path.name for path in place.iterdir()] == [second.id[:12]])
        await runtime.remove(second.id)
        assert not is_mount_point(place)
        await runtime.close()

    asyncio.run(body())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(runtime_host.PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


@with_runtime
async def test_a_part_of_a_volume_is_mounted_and_links_do_not_leave_it(
    runtime: ConmonRuntime, host: Host
) -> None:
    await host.volumes.create(Volume(name="data"))
    place = host.volumes.path("data")
    (place / "a" / "b").mkdir(parents=True)
    (place / "a" / "b" / "file").write_text("inside")
    (place / "inner").symlink_to("a/b")
    (place / "host").symlink_to("/")
    (place / "up").symlink_to("../../../..")
    assert (
        await said(runtime, having(host, volume(subpath="a/b"), command="cat /v/file; ls /v"))
        == "insidefile"
    )
    assert (
        await said(runtime, having(host, volume(subpath="inner"), command="cat /v/file"))
        == "inside"
    )
    assert (
        await said(runtime, having(host, volume(subpath="a/b/file"), command="cat /v")) == "inside"
    )
    for subpath, cause in (
        ("host", "it leads out"),
        ("up", "it leads out"),
        ("host/etc", "it leads out"),
        ("none", "No such file"),
    ):
        with pytest.raises(
            InvalidArgument, match=f"cannot mount subpath {subpath} of volume data: {cause}"
        ):
            await runtime.create(having(host, volume(subpath=subpath)))
    assert host.leftovers() == []


@with_runtime
async def test_binds_have_their_options(runtime: ConmonRuntime, host: Host) -> None:
    source = host.data / "source"
    with pytest.raises(
        InvalidArgument,
        match=f'invalid mount config for type "bind": bind source path does not exist: {source}$',
    ):
        await runtime.create(having(host, bind(source)))
    assert (
        await said(
            runtime,
            having(
                host, bind(source / "deep", create_mountpoint=True), command="touch /v/x && ls /v"
            ),
        )
        == "x"
    )
    assert source.stat().st_mode & 0o777 == 0o755
    inner = source / "inner"
    inner.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", inner], check=True)
    (inner / "file").touch()
    try:
        try_both = (
            "for f in /v/x /v/inner/x; do (> $f) 2>&- && echo rw || echo ro; done; ls /v/inner"
        )
        for options, words in (
            ({}, "rw rw file x"),
            ({"non_recursive": True}, "rw rw x"),
            ({"read_only": True}, "ro ro file x"),
            ({"read_only": True, "read_only_non_recursive": True}, "ro rw file x"),
            ({"read_only": True, "read_only_force_recursive": True}, "ro ro file x"),
        ):
            found = await said(runtime, having(host, bind(source, **options), command=try_both))
            assert found.split() == words.split(), options
        with pytest.raises(
            InvalidArgument, match=f"path {source} is mounted on .* but it is not a shared mount"
        ):
            await runtime.create(having(host, bind(source, propagation="shared")))
    finally:
        subprocess.run(["umount", inner], check=True)


@with_runtime
async def test_mounts_travel_as_the_propagation_says(runtime: ConmonRuntime, host: Host) -> None:
    source = host.data / "shared"
    source.mkdir()
    for argv in (["--bind", str(source), str(source)], ["--make-shared", str(source)]):
        subprocess.run(["mount", *argv], check=True)
    seen = "while ! grep -q ' /v/inner ' /proc/mounts; do sleep 0.05; done; echo seen"
    configs = {
        word: having(host, bind(source, propagation=word), command=seen)
        for word in ("rslave", "rshared", "rprivate")
    }
    try:
        for config in configs.values():
            await runtime.create(config)
            await runtime.start(config.id)
        (source / "inner").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source / "inner"], check=True)
        for word in ("rslave", "rshared"):
            await runtime.wait(configs[word].id)
        mounts = Path(f"/proc/{runtime.get(configs['rprivate'].id).pid}/mounts").read_text()
        assert " /v/inner " not in mounts
    finally:
        for config in configs.values():
            await runtime.remove(config.id)
        subprocess.run(["umount", "-R", source], check=True)


@with_runtime
async def test_a_volume_that_cannot_be_mounted_says_why_and_leaves_nothing(
    runtime: ConmonRuntime, host: Host
) -> None:
    options = {"type": "none", "o": "bind", "device": "/no/such/place"}
    await host.volumes.create(Volume(name="bad", options=options))
    await host.volumes.create(Volume(name="good", options=SCRATCH))
    with pytest.raises(
        OperationFailed, match="error while mounting volume .*/bad/_data.*no such file or directory"
    ):
        await runtime.create(having(host, volume("good", "/w"), volume("bad")))
    assert mount_points_below(host.data) == []
    assert host.leftovers() == []


@with_runtime
async def test_mounts_lie_in_each_other_and_over_the_systems(
    runtime: ConmonRuntime, host: Host
) -> None:
    await host.volumes.create(Volume(name="data"))
    mounts = (
        Mount(
            type="tmpfs",
            target="/v/a/b",
            tmpfs_mode=0o700,
            tmpfs_size=8192,
            tmpfs_options=(("exec",),),
        ),
        volume(),
        Mount(type="tmpfs", target="/dev/shm", read_only=True),
    )
    script = "grep -e ' /v' -e ' /dev/shm' /proc/mounts | cut -d' ' -f2-4"
    lines = (await said(runtime, having(host, *mounts, command=script))).splitlines()
    assert [line.split()[0] for line in lines] == ["/v", "/dev/shm", "/v/a/b"]
    assert lines[1].split()[2].startswith("ro,nosuid,nodev,noexec")
    nested = lines[2].split()[2].split(",")
    assert {"rw", "nosuid", "nodev", "size=8k", "mode=700"} <= set(nested)
    assert "noexec" not in nested
