"""The image store with the real file system and skopeo: what it keeps, refuses and removes."""

import asyncio
import gzip
import os
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.kernel.image_store import (
    PATIENCE,
    docker_archive,
    file,
    layer_of,
    left_over,
    load,
    tar_of,
)
from weft.errors import Conflict, InvalidArgument, NotFound, OperationFailed
from weft.model.ids import ContainerId
from weft.runtime.images import ImageStore

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_an_image_is_loaded_found_and_kept(store: ImageStore, tmp_path: Path) -> None:
    assert load(store, docker_archive("demo:1", tar_of(file("a", b"12345")))) == ["demo:1"]
    again = ImageStore(tmp_path / "images", time.time_ns)
    image = again.find("demo:1")
    assert (image.size, image.created, image.config.user) == (5, 1_704_164_645 * 10**9, "7")
    assert set(image.config.exposed_ports) == {(80, "tcp"), (53, "udp")}
    assert {
        again.find(name).id for name in ("docker.io/library/demo:1", image.id, image.id[7:19])
    } == {image.id}
    with pytest.raises(NotFound, match="No such image: demo:latest"):
        again.find("demo")


def test_what_an_older_daemon_left_open_is_closed_at_the_start(
    store: ImageStore, tmp_path: Path
) -> None:
    (tmp_path / "images").chmod(0o755)
    ImageStore(tmp_path / "images", time.time_ns)
    assert stat.S_IMODE((tmp_path / "images").stat().st_mode) == 0o700


def test_what_is_no_image_is_refused_and_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    for data in (
        b"",
        b"garbage" * 1000,
        tar_of(file("hello", b"x")),
        tar_of(file("manifest.json", b"[{}]")),
    ):
        with pytest.raises(InvalidArgument, match="cannot load image"):
            load(store, data)
    with pytest.raises(InvalidArgument, match="its digest is"):
        load(store, docker_archive("demo", tar_of(file("a", b"x")), lie=True))
    assert store.all() == []
    assert not list((tmp_path / "images" / "tmp").iterdir())


def test_of_an_archive_with_one_bad_image_nothing_is_kept(
    store: ImageStore, tmp_path: Path
) -> None:
    good, bad = tar_of(file("good")), tar_of(file("../bad"))
    load(store, docker_archive("kept", good))
    before = sorted(left_over(tmp_path))
    new = tar_of(file("new"))
    with pytest.raises(InvalidArgument, match="leads out"):
        load(store, docker_archive("demo", good, new, bad))
    assert [image.tags for image in store.all()] == [("kept:latest",)]
    assert sorted(left_over(tmp_path)) == before


def test_an_index_that_cannot_be_written_costs_the_new_image_only(
    store: ImageStore, tmp_path: Path
) -> None:
    load(store, docker_archive("kept", tar_of(file("good"))))
    before = sorted(left_over(tmp_path))
    (tmp_path / "images" / ".index.json.copy.new").mkdir()  # where its draft would be
    with pytest.raises(OperationFailed, match="cannot write image index"):
        load(store, docker_archive("demo", tar_of(file("new"))))
    with pytest.raises(OperationFailed, match="cannot write image index"):
        asyncio.run(store.remove("kept"))
    assert [image.tags for image in store.all()] == [("kept:latest",)]
    assert sorted(left_over(tmp_path)) == before


def test_a_load_that_is_given_up_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    """While it is received, and while it is unpacked."""
    archive = docker_archive(
        "demo", tar_of(*[file(f"d/{number}", b"x" * 100) for number in range(20_000)])
    )
    layers = tmp_path / "images" / "layers"

    async def endless() -> AsyncIterator[bytes]:
        yield archive
        await asyncio.Event().wait()

    async def whole() -> AsyncIterator[bytes]:
        yield archive

    async def give_up(chunks: AsyncIterator[bytes], begun: Callable[[], bool]) -> None:
        loading = asyncio.create_task(store.load(chunks))
        while not begun():
            await asyncio.sleep(0)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading

    asyncio.run(give_up(endless(), lambda: any((tmp_path / "images").glob("tmp/*/archive.tar"))))
    assert left_over(tmp_path) == []
    asyncio.run(give_up(whole(), lambda: any(layers.glob(".*/d/5"))))
    assert left_over(tmp_path) == []
    assert store.all() == []


def test_the_event_loop_does_not_wait_for_the_disk(store: ImageStore, tmp_path: Path) -> None:
    """The index's draft is a pipe, which opens when somebody else opens it, too: only the loop
    could."""
    pipe = tmp_path / "images" / ".index.json.copy.new"
    os.mkfifo(pipe)

    async def load_and_look() -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield docker_archive("demo", tar_of(file("a")))

        loading = asyncio.create_task(store.load(chunks()))
        while not list((tmp_path / "images" / "layers").glob("*.size")):
            await asyncio.sleep(0)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            # Pipes cannot be flushed.
            with pytest.raises(OperationFailed, match="cannot write image index"):
                await loading
        finally:
            os.close(reader)

    asyncio.run(load_and_look())
    assert left_over(tmp_path) == []


def test_images_are_taken_in_side_by_side(store: ImageStore, tmp_path: Path) -> None:
    shared = tar_of(file("shared"))
    archives = [
        docker_archive(f"demo:{number}", shared, tar_of(file(str(number)))) for number in range(10)
    ]

    async def load_all() -> None:
        async def chunks(data: bytes) -> AsyncIterator[bytes]:
            yield data

        await asyncio.gather(*(store.load(chunks(data)) for data in archives))

    asyncio.run(load_all())
    again = ImageStore(tmp_path / "images", time.time_ns)
    assert {tag for image in again.all() for tag in image.tags} == {
        f"demo:{number}" for number in range(10)
    }
    assert len([path for path in (tmp_path / "images" / "layers").iterdir() if path.is_dir()]) == 11


def test_a_layer_that_is_removed_meanwhile_is_not_promised(
    store: ImageStore, tmp_path: Path
) -> None:
    """The other image's removal comes between the look at what is there and the index."""
    shared, own = tar_of(file("shared")), tar_of(*[file(f"d/{number}") for number in range(5_000)])
    load(store, docker_archive("other", shared))

    async def load_and_remove() -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield docker_archive("demo", shared, own)

        loading = asyncio.create_task(store.load(chunks()))
        while not any((tmp_path / "images" / "layers").glob(".*/d/5")):
            await asyncio.sleep(0)
        await store.remove("other")
        with pytest.raises(OperationFailed, match="was removed meanwhile"):
            await loading

    asyncio.run(load_and_remove())
    assert (store.all(), left_over(tmp_path)) == ([], [])


def test_no_image_fills_the_disk(small_disk: Path) -> None:
    store = ImageStore(small_disk / "images", time.time_ns)
    many = tar_of(*[file("same", bytes(10 << 20)) for _ in range(20)])
    bombs = {
        "one file": docker_archive("demo", tar_of(file("zeros", bytes(100 << 20))), compress=True),
        "a file again and again": docker_archive("demo", many, compress=True),
        "inodes": docker_archive(
            "demo", tar_of(*[file(str(number)) for number in range(10_000)]), compress=True
        ),
        "directories": docker_archive(
            "demo", tar_of(*[file(f"{n}/" + "d/" * 1000) for n in range(10)]), compress=True
        ),
        "the archive": bytes(100 << 20),
        "the archive, compressed": gzip.compress(
            docker_archive("demo", tar_of(file("zeros", bytes(100 << 20)))), 1
        ),
    }
    for name, bomb in bombs.items():
        with pytest.raises(OperationFailed, match="more room than there is"):
            load(store, bomb)
        status = os.statvfs(small_disk / "images")
        assert left_over(small_disk) == [], name
        assert status.f_bfree > status.f_blocks * 0.9
    load(store, docker_archive("demo", tar_of(file("zeros", bytes(20 << 20)))))


def test_what_a_daemon_left_in_the_middle_is_cleared_at_the_next_start(
    store: ImageStore, tmp_path: Path
) -> None:
    load(store, docker_archive("demo", tar_of(file("a"))))
    for name in ("tmp/x/y", "layers/.half/d"):
        (tmp_path / "images" / name).mkdir(parents=True)
    again = ImageStore(tmp_path / "images", time.time_ns)
    assert (layer_of(again, "demo") / "a").exists()
    deadline = time.monotonic() + PATIENCE
    while len(left_over(tmp_path)) > 3:
        assert time.monotonic() < deadline, left_over(tmp_path)
        time.sleep(0.01)
    assert {path.name for path in left_over(tmp_path)} == {
        path.name for path in (tmp_path / "images" / "layers").iterdir()
    }
    assert len(left_over(tmp_path)) == 3


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_archives_of_other_tools_are_loaded(store: ImageStore, tmp_path: Path, kind: str) -> None:
    (tmp_path / "d.tar").write_bytes(
        docker_archive("demo:oci", tar_of(file("a", b"12345")), tar_of(file("b")))
    )
    target = f"{kind}:{tmp_path}/o.tar:demo:oci"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", f"docker-archive:{tmp_path}/d.tar", target],
        check=True,
    )
    assert load(store, (tmp_path / "o.tar").read_bytes()) == ["demo:oci"]
    assert (layer_of(store, "demo:oci") / "a").read_bytes() == b"12345"
    assert (layer_of(store, "demo:oci", 1) / "b").exists()


def test_tags_move_and_the_last_one_takes_the_image_with_it(store: ImageStore) -> None:
    shared, own = tar_of(file("shared", b"1")), tar_of(file("own", b"2"))
    load(store, docker_archive("one:1", shared))
    load(store, docker_archive("two:1", shared, own))
    one, two = store.find("one:1"), store.find("two:1")
    asyncio.run(store.tag("one:1", "other"))
    with pytest.raises(Conflict, match="referenced in multiple repositories"):
        asyncio.run(store.remove(one.id))
    assert asyncio.run(store.remove("one:1")) == [("Untagged", "one:1")]
    asyncio.run(store.tag("two:1", "other"))
    assert (store.find("other").id, store.find(one.id).tags) == (two.id, ())
    assert asyncio.run(store.remove(two.id, force=True)) == [
        ("Untagged", "two:1"), ("Untagged", "other:latest"), ("Deleted", two.id), ("Deleted", two.layers[1]),
    ]  # fmt: skip
    assert (store.layer_directories(one)[0] / "shared").exists()


def test_an_image_in_use_stays(store: ImageStore) -> None:
    load(store, docker_archive("demo", tar_of(file("a"))))
    store.set_users(lambda _: [ContainerId("c" * 64)])
    with pytest.raises(Conflict, match="container cccccccccccc is using its referenced image"):
        asyncio.run(store.remove("demo"))
    assert store.find("demo").tags == ("demo:latest",)


def test_stores_of_one_machine_share_layers(tmp_path: Path) -> None:
    archive = docker_archive("demo", tar_of(file("a", b"1")))
    stores = [
        ImageStore(tmp_path / name, time.time_ns, shared=tmp_path / "shared")
        for name in ("n1", "n2")
    ]
    for store in stores:
        load(store, archive)
    assert layer_of(stores[0], "demo") == layer_of(stores[1], "demo")
    asyncio.run(stores[0].remove("demo"))
    assert (layer_of(stores[1], "demo") / "a").exists()
