"""Writes images as other programs read them: a `docker save` archive, which is an OCI layout too, and
the directory that skopeo sends to a registry.

    blobs/sha256/<digest>   layers as plain tars, configurations, manifests
    index.json, oci-layout  the OCI layout: one entry for each tag
    manifest.json           the docker archive: one item for each image
    repositories            the docker archive of before Docker 1.10
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from weft.errors import OperationFailed
from weft.model.container import Image
from weft.model.meta import SECOND
from weft.model.references import parse, qualified
from weft.runtime.layers import LayerStore
from weft.runtime.tar_headers import TRAILER, padding, plain_directory, plain_file

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

_Json = dict[str, Any]


class Chosen(msgspec.Struct, frozen=True):
    """An image to be saved, under these of its tags."""

    image: Image
    tags: tuple[str, ...]


def choose(
    references: Sequence[str], images: Sequence[Image], find: Callable[[str], Image]
) -> list[Chosen]:
    """A name without a tag means all tags of that name; an id means none. Raises `NotFound`,
    `InvalidArgument`."""
    tags: dict[str, list[str]] = {}
    found: dict[str, Image] = {}

    def add(image: Image, *names: str) -> None:
        found[image.id] = image
        tags.setdefault(image.id, []).extend(names)

    for reference in references:
        every = _tagged_with(reference, images)
        for image, name in every:
            add(image, name)
        if not every:
            image = find(reference)
            add(image, *([asked] if (asked := _tag(reference)) in image.tags else []))
    return [Chosen(image, tuple(dict.fromkeys(tags[id]))) for id, image in found.items()]


def _tagged_with(reference: str, images: Sequence[Image]) -> list[tuple[Image, str]]:
    """All tags of a name, if `reference` is a bare name."""
    if "@" in reference or ":" in reference.rpartition("/")[2]:
        return []
    name, _, _ = parse(reference)
    return [(image, tag) for image in images for tag in image.tags if parse(tag)[0] == name]


def _tag(reference: str) -> str:
    name, tag, digest = ("", "", "") if reference.startswith("sha256:") else parse(reference)
    return "" if digest else f"{name}:{tag}"


def check_can_leave(image: Image, layers: LayerStore, task: str) -> None:
    """Raises `OperationFailed` if the image cannot be given back as it came."""
    again = "pull or load it again, for it came before Weft kept what this needs"
    if not image.document:
        raise OperationFailed(f"cannot {task} {image.id}: {again}")
    for digest in image.layers:
        if not layers.is_whole(digest):
            raise OperationFailed(f"cannot {task} {image.id}: layer {digest}: {again}")
        if not layers.archive_size(digest):
            raise OperationFailed(
                f"cannot {task} {image.id}: the archive of layer {digest} has an entry twice, and"
                " Weft keeps only the last one"
            )


def save(chosen: Sequence[Chosen], layers: LayerStore) -> Iterator[bytes]:
    """The archive, in pieces. Raises `OSError`, `OperationFailed`."""
    yield plain_directory("blobs/", 0)
    yield plain_directory("blobs/sha256/", 0)
    written: set[str] = set()
    index: list[_Json] = []
    for one in chosen:
        manifest = msgspec.json.encode(_manifest(one.image, layers))
        index += _entries(one, manifest)
        for digest in one.image.layers:
            if digest not in written:
                written.add(digest)
                yield from _layer(digest, one.image, layers)
        for content in (one.image.document, manifest):
            if (digest := _digest(content)) not in written:
                written.add(digest)
                yield from _file(_blob(digest), content, one.image.created // SECOND)
    documents = {
        "index.json": {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": index},
        "manifest.json": list(map(_item, chosen)),
        "oci-layout": {"imageLayoutVersion": "1.0.0"},
        "repositories": _repositories(chosen),
    }
    for name, document in documents.items():
        if document:
            yield from _file(name, msgspec.json.encode(document), 0)
    yield TRAILER


def _layer(digest: str, image: Image, layers: LayerStore) -> Iterator[bytes]:
    size = layers.archive_size(digest)
    yield plain_file(_blob(digest), size, image.created // SECOND)
    yield from layers.archive(digest)
    yield padding(size)


def _file(name: str, content: bytes, mtime: int) -> Iterator[bytes]:
    yield plain_file(name, len(content), mtime) + content + padding(len(content))


def _manifest(image: Image, layers: LayerStore) -> _Json:
    platform = {"architecture": image.architecture, "os": image.os}
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {**_described(OCI_CONFIG, image.id, len(image.document)), "platform": platform},
        "layers": [
            _described(OCI_LAYER, digest, layers.archive_size(digest)) for digest in image.layers
        ],
    }


def docker_manifest(image: Image, layers: LayerStore) -> bytes:
    """As Docker sends it to a registry; skopeo puts compressed layers in place of the plain ones."""
    return msgspec.json.encode({
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": _described(DOCKER_CONFIG, image.id, len(image.document)),
        "layers": [
            _described(DOCKER_LAYER, digest, layers.archive_size(digest)) for digest in image.layers
        ],
    })  # fmt: skip


def _described(media_type: str, digest: str, size: int) -> _Json:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _entries(one: Chosen, manifest: bytes) -> list[_Json]:
    """The image's entries in index.json: one for each tag, or one without a name."""
    whole = {
        **_described(OCI_MANIFEST, _digest(manifest), len(manifest)),
        "platform": {"architecture": one.image.architecture, "os": one.image.os},
    }
    named = []
    for tag in one.tags:
        name, version, _ = parse(tag)
        annotations = {
            "io.containerd.image.name": f"{qualified(name)}:{version}",
            "org.opencontainers.image.ref.name": version,
        }
        named.append({**whole, "annotations": annotations})
    return named or [whole]


def _item(one: Chosen) -> _Json:
    return {
        "Config": _blob(one.image.id),
        "RepoTags": list(one.tags) or None,
        "Layers": list(map(_blob, one.image.layers)),
    }


def _repositories(chosen: Sequence[Chosen]) -> Mapping[str, Mapping[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for one in chosen:
        for tag in one.tags if one.image.layers else ():
            name, version, _ = parse(tag)
            top = one.image.layers[-1].removeprefix("sha256:")
            found.setdefault(name, {})[version] = top
    return found


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"
