"""Whole images of hostile parts: what `docker save` and OCI tools write, with right digests for
wrong content, so that a hostile layer is not already refused for its digest."""

import bz2
import gzip
import hashlib
import json
import lzma
import platform
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.hostile.tars import Item, tar

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Json = Any
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "zstd": lambda data: zstd.compress(data, 1),
}


class Image(NamedTuple):
    """`config` and `manifest` are put into the documents over what is right."""

    layers: tuple[bytes, ...] = ()
    """Plain tars."""
    tags: Json = ("hostile:1",)
    config: dict[str, Json] = {}  # noqa: RUF012  # never changed
    run: Json = None
    manifest: dict[str, Json] = {}  # noqa: RUF012
    compression: str = "plain"


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def configuration(image: Image) -> bytes:
    document = {
        "architecture": ARCHITECTURE, "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["/x"], "Env": ["A=b"]} if image.run is None else image.run,
        "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in image.layers]},
    }  # fmt: skip
    return json.dumps(document | image.config).encode()


def docker(*images: Image, manifest: bytes | None = None, extra: tuple[Item, ...] = ()) -> bytes:
    """As `docker save`. `manifest`: manifest.json, if it is not what the images make of it."""
    items, entries = [], []
    for number, image in enumerate(images):
        names = [f"{number}.{layer}/layer.tar" for layer in range(len(image.layers))]
        for name, layer in zip(names, image.layers, strict=True):
            items.append(Item(name.encode(), COMPRESSIONS[image.compression](layer)))
        items.append(Item(f"{number}.json".encode(), configuration(image)))
        entry = {"Config": f"{number}.json", "RepoTags": image.tags, "Layers": names}
        entries.append(entry | image.manifest)
    written = json.dumps(entries).encode() if manifest is None else manifest
    return tar(*items, Item(b"manifest.json", written), *extra)


class Blobs:
    """Of an OCI layout."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def add(self, data: bytes, media_type: str = "", **more: Json) -> Json:
        """A descriptor."""
        self.content[sha256(data)] = data
        return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}

    def add_json(self, document: Json, media_type: str, **more: Json) -> Json:
        return self.add(json.dumps(document).encode(), media_type, **more)

    def add_image(self, image: Image, **more: Json) -> Json:
        layers = [self.add(COMPRESSIONS[image.compression](layer)) for layer in image.layers]
        config = self.add(configuration(image))
        document = {"schemaVersion": 2, "config": config, "layers": layers} | image.manifest
        return self.add_json(document, MANIFEST, **more)

    def archive(self, index: Json) -> bytes:
        items = [
            Item(f"blobs/sha256/{digest.removeprefix('sha256:')}".encode(), data)
            for digest, data in self.content.items()
        ]
        document = index if isinstance(index, bytes) else json.dumps(index).encode()
        return tar(Item(b"oci-layout", b"{}"), *items, Item(b"index.json", document))


def named(tag: str) -> dict[str, Json]:
    """What an index says beside an image, that it has that name."""
    return {"annotations": {"io.containerd.image.name": tag}}


def oci(*images: Image) -> bytes:
    blobs = Blobs()
    manifests = [
        blobs.add_image(image, **named(str(tag))) for image in images for tag in image.tags or ()
    ]
    return blobs.archive({"schemaVersion": 2, "manifests": manifests})
