"""Looking into real containers: files out and in, with the mounts of a running container and without
those of an ended one; and what a hostile container can do to whoever copies."""

import asyncio
import io
import os
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.kernel import runtime_host
from tests.kernel.runtime_host import Host, configure, finished, started, with_runtime
from weft.errors import Conflict, InvalidArgument, NotFound, OperationFailed
from weft.model.container import ContainerConfig, NewImage
from weft.model.ids import ContainerId
from weft.model.mount import VolumeOptions
from weft.model.plain_container import PlainContainer
from weft.model.service import Mount, Resources
from weft.model.volume import Volume, point_of
from weft.runtime.conmon import ConmonRuntime
from weft.runtime.image_exchange import StoreExchange
from weft.runtime.images import ImageStore
from weft.runtime.inside import ConmonInside
from weft.runtime.mounts import mount_points_below

pytestmark = runtime_host.NEEDED
host = runtime_host.host
image_archive = runtime_host.image_archive


def looking(runtime: ConmonRuntime) -> ConmonInside:
    return ConmonInside(runtime, runtime._images, time.time_ns)


async def copied(inside: ConmonInside, id: ContainerId, path: str) -> dict[str, bytes]:
    """Content, or target, by name; directories end in a slash."""
    _, pieces = await inside.read(id, path)
    return entries(b"".join([piece async for piece in pieces]))


def entries(tar: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for member in opened:
            file = opened.extractfile(member) if member.isreg() else None
            name = member.name + ("/" if member.isdir() else "")
            found[name] = file.read() if file else member.linkname.encode()
    return found


async def sent(*members: tuple[str, bytes]) -> AsyncIterator[bytes]:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as opened:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    yield written.getvalue()


async def write(
    inside: ConmonInside,
    id: ContainerId,
    path: str,
    *members: tuple[str, bytes],
    owned: bool = False,
) -> None:
    await inside.write(id, path, sent(*members), keep_kinds=True, owned=owned)


async def prepared(runtime: ConmonRuntime, script: str, **options: object) -> ContainerId:
    """A container whose script has run; it goes on."""
    id = await started(runtime, "sh", "-c", f"{script}; echo ready; exec sleep 3600", **options)
    async for line in runtime.logs(id, follow=True):
        if line.data == b"ready\n":
            return id
    raise AssertionError("the script has not run to its end")


@with_runtime
async def test_a_running_container_is_seen_as_its_processes_see_it(
    runtime: ConmonRuntime, host: Host
) -> None:
    inside = looking(runtime)
    bound = host.data / "bound"
    bound.mkdir()
    (bound / "note").write_text("of the host")
    id = await prepared(
        runtime,
        "echo mine > /tmp/mine; echo mine > /scratch/mine; ln -s /tmp/mine /link",
        mounts=(
            Mount(type="bind", source=str(bound), target="/bound", read_only=True),
            Mount(type="tmpfs", target="/scratch"),
        ),
    )
    assert await copied(inside, id, "/bound/note") == {"note": b"of the host"}
    assert await copied(inside, id, "/scratch") == {"scratch/": b"", "scratch/mine": b"mine\n"}
    assert await copied(inside, id, "/link") == {"link": b"/tmp/mine"}
    assert (await inside.stat(id, "/link")).link_target == "/tmp/mine"
    await write(inside, id, "/scratch", ("put", b"here"))
    await write(inside, id, "/tmp", ("put", b"there"))
    command = await runtime.exec(id, ("cat", "/scratch/put", "/tmp/put"))
    streams = await command.start()
    assert (await runtime_host.read_all(streams))[1] == b"herethere"
    with pytest.raises(InvalidArgument, match="read-only"):
        await write(inside, id, "/bound", ("x", b""))
    assert sorted(os.listdir(bound)) == ["note"]
    for path in ("/proc/1/cmdline", "/sys/kernel", "/dev/null", "/dev/shm", "/nope", "/tmp/mine/x"):
        with pytest.raises(NotFound, match="Could not find the file"):
            await inside.stat(id, path)
    with pytest.raises(NotFound):
        await write(inside, id, "/proc/sys/kernel", ("core_pattern", b"x"))
    whole = await copied(inside, id, "/")
    assert whole["dev/"] == b""
    assert not any(name.startswith(("proc/", "dev/")) and name[-1] != "/" for name in whole)


@with_runtime
async def test_an_ended_container_is_seen_without_its_memory_and_unmounted_again(
    runtime: ConmonRuntime, host: Host
) -> None:
    inside = looking(runtime)
    config = configure(
        "sh", "-c", "echo mine > /tmp/mine", mounts=(Mount(type="tmpfs", target="/scratch"),)
    )
    await runtime.create(config)
    assert (await inside.stat(config.id, "/tmp/")).size >= 0
    await runtime.start(config.id)
    await runtime.wait(config.id)
    assert await copied(inside, config.id, "/tmp/mine") == {"mine": b"mine\n"}
    await write(inside, config.id, "/tmp", ("put", b"there"))
    assert (await copied(inside, config.id, "/tmp/."))["put"] == b"there"
    with pytest.raises(Conflict, match="mounted only while the container runs"):
        await inside.stat(config.id, "/scratch/x")
    assert not os.path.ismount(runtime.box(config.id).directory.merged)
    assert [f"{c.kind} {c.path}" for c in await inside.changes(config.id)] == [
        "added /scratch", "modified /tmp", "added /tmp/mine", "added /tmp/put",
    ]  # fmt: skip
    written, whole = await inside.sizes(config.id)
    assert written == len("mine\nthere")
    assert whole > 1 << 20
    exported = entries(b"".join([piece async for piece in inside.export(config.id)]))
    assert exported["tmp/put"] == b"there"


@with_runtime
async def test_what_is_removed_or_replaced_of_the_image_is_told(
    runtime: ConmonRuntime, host: Host
) -> None:
    inside = looking(runtime)
    id = await prepared(runtime, "rm /etc/passwd; echo x >> /etc/group; rm -r /home; mkdir /home")
    kinds = {change.path: change.kind for change in await inside.changes(id)}
    assert kinds["/etc/passwd"] == "deleted"
    assert kinds["/etc/group"] == "modified"
    assert kinds["/etc"] == "modified"
    assert "/.dockerenv" not in kinds


@with_runtime
async def test_what_a_container_has_changed_becomes_a_layer(
    runtime: ConmonRuntime, host: Host
) -> None:
    """Another container on top of it sees what the first one saw."""
    inside, store = looking(runtime), runtime._images
    assert isinstance(store, ImageStore)
    exchange, base = StoreExchange(store), store.find(runtime_host.IMAGE)
    idle = await prepared(runtime, ":")
    assert b"".join([piece async for piece in inside.layer(idle)]) == bytes(1024)
    look = (
        "cd /; ls -d etc/passwd home/* new/* usr/link; cat new/a new/hard etc/group | tail -n 2;"
        " stat -c '%a %u:%g %h' new/a new"
    )
    id = await prepared(
        runtime,
        "rm /etc/passwd; echo x >> /etc/group; rm -r /home; mkdir /home; echo 1 > /home/own;"
        " mkdir -m 751 /new; echo y > /new/a; chown 7:8 /new/a; ln /new/a /new/hard;"
        " ln -s /etc/group /usr/link; mkfifo /new/pipe",
    )
    command = await runtime.exec(id, ("sh", "-c", f"({look}) 2>&1"))
    attached, seen = await command.start(), b""
    while (output := await attached.read())[0]:
        seen += output[1]
    attached.close()
    image = await exchange.make(
        NewImage(task="commit", base=base, config=base.config, name=runtime_host.IMAGE),
        inside.layer(id),
    )
    assert image.layers[:-1] == base.layers
    assert await finished(runtime, "sh", "-c", f"({look}) 2>&1") == (0, seen)
    assert b"home/own" in seen
    assert b"No such file" in seen
    bad = await prepared(runtime, "touch /.wh.x")
    with pytest.raises(OperationFailed, match=r"'.wh.x' cannot be in a layer"):
        _ = [piece async for piece in inside.layer(bad)]


@with_runtime
async def test_files_that_are_copied_as_the_containers_own_belong_to_its_user(
    runtime: ConmonRuntime, host: Host
) -> None:
    inside = looking(runtime)
    id = await started(runtime, "sleep", "3600", user="1000:7")
    await write(inside, id, "/tmp", ("put", b"x"), owned=True)
    status = (Path(f"/proc/{runtime.get(id).pid}/root") / "tmp/put").stat()
    assert (status.st_uid, status.st_gid) == (1000, 7)


@with_runtime
async def test_a_container_that_swaps_files_for_links_leads_nobody_out(
    runtime: ConmonRuntime, host: Host
) -> None:
    """The container puts links to the host's files, and FIFOs, where it is looked at and written,
    as fast as it can."""
    inside = looking(runtime)
    secret = host.data / "secret"
    secret.write_text("of the host")
    secret.chmod(0o600)
    swap = (
        "mkdir -p /a/real; while :; do ln -sfn real /a/x; ln -sfn ../../../../../.. /a/x; rm -rf"
        " /a/y; mkdir /a/y; rm -rf /a/y; mkfifo /a/y; rm -f /a/y; echo ok > /a/y; done"
    )
    id = await started(runtime, "sh", "-c", swap)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        path = f"/a/x{secret}"
        for attempt in (
            copied(inside, id, path),
            copied(inside, id, "/a"),
            write(inside, id, f"/a/x{secret.parent}", ("secret", b"overwritten")),
            write(inside, id, "/a/x", ("y", b"1")),
            write(inside, id, "/a", ("y", b"1"), ("y", b"2")),
        ):
            try:
                found = await attempt
            except (NotFound, InvalidArgument, OperationFailed):
                continue
            assert b"of the host" not in (found or {}).values()
    assert secret.read_text() == "of the host"
    assert secret.stat().st_mode & 0o777 == 0o600


@with_runtime
async def test_files_that_never_end_and_that_wait_for_others_do_no_harm(
    runtime: ConmonRuntime, host: Host
) -> None:
    inside = looking(runtime)
    id = await prepared(
        runtime,
        "mkdir /a; mkfifo /a/pipe; dd if=/dev/zero of=/a/huge bs=1M count=0 seek=1048576; ln -s huge /a/link",
    )
    _, pieces = await inside.read(id, "/a")
    async with asyncio.timeout(runtime_host.PATIENCE):
        for _ in range(50):
            assert len(await anext(pieces)) <= 1 << 20
        await pieces.aclose()
    assert (await inside.stat(id, "/a/huge")).size == 1 << 40
    with pytest.raises(InvalidArgument, match="not a directory"):
        await write(inside, id, "/a/pipe", ("x", b""))
    await runtime.remove(id)


@with_runtime
async def test_use_of_resources_is_measured(runtime: ConmonRuntime, host: Host) -> None:
    inside = looking(runtime)
    id = await prepared(
        runtime,
        "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done",
        limits=Resources(memory=64 << 20, pids=50),
    )
    usage = await inside.usage(id)
    assert usage is not None
    assert usage.cpu.total > 10**6
    assert usage.cpu.system > usage.cpu.total
    assert usage.cpu.cpus == os.cpu_count()
    assert 0 < usage.memory.usage < usage.memory.limit == 64 << 20
    assert (usage.processes, usage.processes_limit) == (1, 50)
    assert usage.interfaces == {}
    await runtime.kill(id, "KILL")
    await runtime.wait(id)
    assert await inside.usage(id) is None


def resting(host: Host, *mounts: Mount, **spec: object) -> ContainerConfig:
    """A container that is only prepared, with these mounts."""
    points = [point_of(mount) for mount in mounts]
    placed = tuple(
        msgspec.structs.replace(point, source=str(host.volumes.path(point.name)))
        if point.type == "volume"
        else point
        for point in points
    )
    config = configure("true", namespace="", **spec)  # type: ignore[arg-type]  # they differ in type
    return msgspec.structs.replace(config, plain=PlainContainer(), mounts=placed)


@with_runtime
async def test_volumes_are_seen_in_a_container_that_does_not_run(
    runtime: ConmonRuntime, host: Host
) -> None:
    """Of the disk, of a file system with options, of the host, parts of one, one in the other; all
    that is mounted for a look is gone after it, also when the mount fails."""
    inside, bound = looking(runtime), host.data / "bound"
    bound.mkdir()
    (bound / "note").write_text("of the host")
    (bound / "out").symlink_to("/vol/real")
    await host.volumes.create(Volume(name="data"))
    await host.volumes.create(Volume(name="part"))
    (host.volumes.path("part") / "sub").mkdir()
    options = {"type": "tmpfs", "device": "tmpfs"}
    await host.volumes.create(Volume(name="memory", options=options))
    config = resting(
        host,
        Mount(type="volume", source="part", target="/vol/in", volume=VolumeOptions(subpath="sub")),
        Mount(type="volume", source="data", target="/vol"),
        Mount(type="volume", source="memory", target="/memory"),
        Mount(type="bind", source=str(bound), target="/bound", read_only=True),
        Mount(type="bind", source=str(bound / "note"), target="/etc/one"),
        Mount(type="tmpfs", target="/scratch"),
        user="1000:7",
    )
    await runtime.prepare(config)
    id = config.id
    await write(inside, id, "/vol", ("put", b"here"), owned=True)
    put = host.volumes.path("data") / "put"
    assert (put.read_bytes(), put.stat().st_uid, put.stat().st_gid) == (b"here", 1000, 7)
    await write(inside, id, "/vol/in", ("deep", b"there"))
    assert (host.volumes.path("part") / "sub" / "deep").read_bytes() == b"there"
    await write(inside, id, "/memory", ("gone", b"x"))
    assert await copied(inside, id, "/memory/.") == {"./": b""}, "as at each start"
    assert (await inside.stat(id, "/vol/put")).size == 4
    assert await copied(inside, id, "/bound/note") == {"note": b"of the host"}
    assert await copied(inside, id, "/etc/one") == {"one": b"of the host"}
    whole = await copied(inside, id, "/")
    assert (whole["vol/in/deep"], whole["bound/note"]) == (b"there", b"of the host")
    # links: of the rootfs into a volume, and of a volume to a place in the container
    (host.volumes.path("data") / "real").mkdir()
    (host.volumes.path("data") / "up").symlink_to(f"../../../../../..{host.data}")
    await write(inside, id, "/bound/out", ("through", b"1"))
    assert (host.volumes.path("data") / "real/through").read_bytes() == b"1"
    with pytest.raises(NotFound):
        await inside.stat(id, "/vol/up/bound/note")
    for path in ("/bound", "/bound/."):
        with pytest.raises(InvalidArgument, match="mounted volume is marked read-only"):
            await write(inside, id, path, ("x", b""))
    with pytest.raises(InvalidArgument, match="read-only"):
        await write(inside, id, "/", ("bound/x", b""))
    with pytest.raises(Conflict, match="mounted only while the container runs"):
        await inside.stat(id, "/scratch/x")
    assert sorted(os.listdir(bound)) == ["note", "out"]
    assert mount_points_below(host.data) == []
    locked = resting(host, Mount(type="volume", source="data", target="/vol"), read_only=True)
    await runtime.prepare(locked)
    await write(inside, locked.id, "/vol", ("more", b""))
    with pytest.raises(InvalidArgument, match="rootfs is marked read-only"):
        await write(inside, locked.id, "/etc", ("x", b""))
    (bound / "note").unlink()
    with pytest.raises(InvalidArgument, match="bind source path does not exist"):
        await inside.stat(id, "/etc")
    assert mount_points_below(host.data) == []
