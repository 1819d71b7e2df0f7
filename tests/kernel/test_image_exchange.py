"""Images that leave the store: as they came, byte by byte, whatever is in their layers."""

import asyncio
import io
import json
import os
import random
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from tests.kernel.image_store import digest, directory, docker_archive, file, load, tar_of
from weft.errors import InvalidArgument, OperationFailed
from weft.model.container import ImageConfig, NewImage
from weft.runtime.image_exchange import StoreExchange
from weft.runtime.images import ImageStore

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def saved(store: ImageStore, *references: str) -> bytes:
    async def collect() -> bytes:
        return b"".join([piece async for piece in StoreExchange(store).save(references)])

    return asyncio.run(collect())


def files_of(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = {member.name: tar.extractfile(member) for member in tar}
        return {name: content.read() for name, content in found.items() if content is not None}


def layers_of(archive: bytes, number: int = 0) -> list[bytes]:
    files = files_of(archive)
    return [files[name] for name in json.loads(files["manifest.json"])[number]["Layers"]]


def strange_layer() -> bytes:
    """All that a tar may have beside plain files, and a trailer of its own."""
    owned, content = file("bin/tool", b"x" * 700, 0o4755)
    owned.uid, owned.gid, owned.mtime = 12, 34, 1_600_000_000.123456789
    owned.pax_headers = {"SCHILY.xattr.user.note": "hello", "comment": "kept"}
    device, _ = file("null", kind=tarfile.CHRTYPE, mode=0o666)
    device.devmajor, device.devminor = 1, 3
    large = random.Random(1).randbytes((1 << 20) + 1)
    return tar_of(
        directory("bin"),
        (owned, content),
        file("hard", kind=tarfile.LNKTYPE, link="bin/tool"),
        file("usr", kind=tarfile.SYMTYPE, link="bin"),
        file("usr/below-a-link", b"found there"),
        file("./dotted/../plain", b"y"),
        file("d/" * 60 + "deep" + "n" * 120, b"z"),
        (device, b""),
        file("empty"),
        file("bin/.wh.gone", b"a whiteout with content"),
        file("large", large),
        directory("bin"),
    ) + bytes(3 * 512)


def test_a_saved_image_is_the_one_that_was_loaded(store: ImageStore, tmp_path: Path) -> None:
    layers = (tar_of(file("a", b"12345")), strange_layer(), strange_layer())
    load(store, docker_archive("demo:1", *layers, compress=True))
    image = store.find("demo:1")
    asyncio.run(store.tag("demo:1", "registry.test/team/demo:2"))
    archive = saved(store, "demo:1", "registry.test/team/demo")
    assert layers_of(archive) == list(layers)
    assert digest(files_of(archive)[f"blobs/sha256/{image.id[7:]}"]) == image.id
    for name, content in files_of(archive).items():
        assert not name.startswith("blobs/") or digest(content)[7:] == name.rpartition("/")[2]
    other = ImageStore(tmp_path / "other", time.time_ns)
    assert load(other, archive) == ["demo:1", "registry.test/team/demo:2"]
    assert other.all() == store.all()
    assert saved(other, image.id).count(b"demo:1") == 0, "an id saves no names"
    # Other tools read both of its forms.
    (tmp_path / "saved.tar").write_bytes(archive)
    name = "registry.test/team/demo:2"
    for source in (
        f"docker-archive:{tmp_path}/saved.tar:{name}",
        f"oci-archive:{tmp_path}/saved.tar:2",
    ):
        copy = ["skopeo", "--insecure-policy", "copy", "-q", source, f"dir:{tmp_path}/copy"]
        subprocess.run(copy, check=True, capture_output=True)
        manifest = json.loads((tmp_path / "copy" / "manifest.json").read_bytes())
        assert manifest["config"]["digest"] == image.id


def test_an_oci_archive_without_the_docker_part_is_loaded(
    store: ImageStore, tmp_path: Path
) -> None:
    load(store, docker_archive("demo:1", tar_of(file("a", b"1"))))
    kept = {
        name: content
        for name, content in files_of(saved(store, "demo:1")).items()
        if name not in ("manifest.json", "repositories")
    }
    other = ImageStore(tmp_path / "other", time.time_ns)
    assert load(other, tar_of(*(file(name, content) for name, content in kept.items()))) == [
        "demo:1"
    ]
    assert other.all() == store.all()


def test_what_cannot_be_given_back_is_refused_before_the_first_piece(
    store: ImageStore, tmp_path: Path
) -> None:
    """An archive that has an entry twice, and a layer whose outline an older version did not
    write: to load it again mends that."""
    load(store, docker_archive("twice", tar_of(file("a", b"1"), file("a", b"2"))))
    with pytest.raises(OperationFailed, match="has an entry twice"):
        saved(store, "twice")
    archive = docker_archive("old", tar_of(file("b", b"1")))
    load(store, archive)
    layer = store.layer_directories(store.find("old"))[0]
    layer.with_name(f"{layer.name}.outline").unlink()
    with pytest.raises(OperationFailed, match="pull or load it again"):
        saved(store, "old")
    load(store, archive)
    assert layers_of(saved(store, "old")) == [tar_of(file("b", b"1"))]


def test_a_layer_that_is_no_longer_what_it_was_ends_the_archive(store: ImageStore) -> None:
    load(store, docker_archive("demo", tar_of(file("a", b"1"), file("b", b"1"))))
    layer = store.layer_directories(store.find("demo"))[0]
    for spoil, words in (
        (lambda: (layer / "a").write_bytes(b"2"), "no longer those of its archive"),
        (lambda: (layer / "a").write_bytes(b""), "shorter than it was"),
        (lambda: (layer / "a").unlink(), "No such file"),
    ):
        spoil()
        with pytest.raises(OperationFailed, match=words):
            saved(store, "demo")


def test_saving_ends_with_its_reader(store: ImageStore) -> None:
    load(store, docker_archive("demo", tar_of(file("a", bytes(8 << 20)))))
    descriptors = len(os.listdir("/proc/self/fd"))

    async def look() -> None:
        async with aclosing(StoreExchange(store).save(["demo"])) as pieces:
            while len(await anext(pieces)) < 100_000:
                pass

    asyncio.run(look())
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def make(store: ImageStore, new: NewImage, data: bytes) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        yield data

    return asyncio.run(StoreExchange(store).make(new, chunks())).id


def test_an_image_is_made_of_a_tar_and_on_top_of_another(store: ImageStore, tmp_path: Path) -> None:
    first, second = tar_of(file("a", b"123")), tar_of(file("b", b"45"))
    config = ImageConfig(cmd=("/a",), exposed_ports=((80, "tcp"),), labels={"x": "y"})
    new = NewImage(task="import image", config=config, comment="from afar", name="made:1")
    id = make(store, new, first)
    image = store.find("made:1")
    assert (image.id, image.config, image.size, image.layers) == (id, config, 3, (digest(first),))
    above = NewImage(task="commit", base=image, config=config, created_by="sh", name="made:2")
    make(store, above, second)
    image = store.find("made:2")
    assert (image.size, image.layers) == (5, (digest(first), digest(second)))
    history = asyncio.run(StoreExchange(store).history("made:2"))
    assert [(step.comment, step.created_by, size) for step, size in history] == [
        ("from afar", "", 3), ("", "sh", 2),
    ]  # fmt: skip
    assert layers_of(saved(store, "made:2")) == [first, second]
    empty = NewImage(task="commit", base=image, config=config, name="made:3")
    make(store, empty, bytes(1024))
    assert store.find("made:3").layers == image.layers
    for nonsense in (b"", b"garbage" * 1000):
        with pytest.raises(InvalidArgument, match="it is not a tar"):
            make(store, new, nonsense)
    assert not list((tmp_path / "images" / "tmp").iterdir())
