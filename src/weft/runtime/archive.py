"""Images as they travel: `docker save` archives, OCI archives, and the directory that skopeo writes.

Each is a set of named blobs of which some are JSON that say which others are an image's configuration and layers.
"""

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec

from weft.errors import InvalidArgument
from weft.model.container import Image, ImageConfig
from weft.model.meta import Nanoseconds
from weft.runtime.logs import parse_timestamp

_JSON_MAX = 16 << 20
_INDEX_TYPES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")


class Blobs(Protocol):
    def open(self, name: str) -> IO[bytes]:
        """Raises `KeyError`."""
        ...


class ArchivedImage(msgspec.Struct, frozen=True):
    config: bytes
    layers: tuple[str, ...]
    """Names of their blobs, bottom first."""
    tags: tuple[str, ...]


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def open(self, name: str) -> IO[bytes]:
        file = self._tar.extractfile(name)
        if file is None:
            raise KeyError(name)
        return file


class _Files:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._directory / Path(name).name).open("rb")
        except OSError as error:
            raise KeyError(name) from error


@contextmanager
def open_archive(path: Path) -> Iterator[tuple[Blobs, list[ArchivedImage]]]:
    """A tar, as `docker save` or an OCI tool writes it. Raises `InvalidArgument` if it is neither."""
    try:
        with tarfile.open(path) as tar:
            blobs = _Tar(tar)
            names = set(tar.getnames())
            if "manifest.json" in names:
                yield blobs, _docker_images(blobs)
            elif "index.json" in names:
                yield blobs, _oci_images(blobs, _json(blobs, "index.json"), "")
            else:
                raise InvalidArgument("cannot load image: the archive has neither manifest.json nor index.json")
    except (tarfile.TarError, EOFError, KeyError, msgspec.DecodeError) as error:
        raise InvalidArgument(f"cannot load image: not an image archive: {error}") from error


def open_directory(path: Path, tag: str) -> tuple[Blobs, ArchivedImage]:
    """What `skopeo copy … dir:` wrote: blobs named by their digest. Raises `InvalidArgument`."""
    blobs = _Files(path)
    try:
        manifest = _json(blobs, "manifest.json")
        layers = tuple(_hex(layer["digest"]) for layer in manifest["layers"])
        return blobs, ArchivedImage(_read(blobs, _hex(manifest["config"]["digest"])), layers, (tag,))
    except (KeyError, msgspec.DecodeError) as error:
        raise InvalidArgument(f"cannot read image {tag}: {error}") from error


def decode_image(id: str, archived: ArchivedImage, size: int) -> Image:
    """From the OCI image configuration. Raises `InvalidArgument`."""
    try:
        document = msgspec.json.decode(archived.config)
        run = document.get("config") or {}
        return Image(
            id=id, created=_timestamp(document.get("created") or ""), size=size,
            architecture=document.get("architecture") or "amd64", os=document.get("os") or "linux",
            author=document.get("author") or "", config=_decode_config(run), layers=diff_ids(archived),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidArgument(f"cannot read configuration of image {id}: {error}") from error


def diff_ids(archived: ArchivedImage) -> tuple[str, ...]:
    """Digests of the plain layers. Raises `InvalidArgument`."""
    try:
        found = tuple(msgspec.json.decode(archived.config)["rootfs"]["diff_ids"])
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise InvalidArgument(f"cannot load image: its configuration has no rootfs.diff_ids: {error}") from error
    valid = all(isinstance(digest, str) and len(_hex(digest)) == 64 and _hex(digest).isalnum() for digest in found)
    if not valid or len(found) != len(archived.layers):
        raise InvalidArgument("cannot load image: its configuration and its manifest do not name the same layers")
    return found


def _decode_config(run: dict[str, Any]) -> ImageConfig:
    ports = (port.partition("/") for port in run.get("ExposedPorts") or {})
    return ImageConfig(
        entrypoint=tuple(run.get("Entrypoint") or ()), cmd=tuple(run.get("Cmd") or ()), env=tuple(run.get("Env") or ()),
        working_dir=run.get("WorkingDir") or "", user=run.get("User") or "", labels=dict(run.get("Labels") or {}),
        exposed_ports=tuple((int(number), protocol or "tcp") for number, _, protocol in ports),
        volumes=tuple(run.get("Volumes") or ()), stop_signal=run.get("StopSignal") or "",
        has_healthcheck=bool(run.get("Healthcheck")),
    )  # fmt: skip


def _docker_images(blobs: Blobs) -> list[ArchivedImage]:
    return [
        ArchivedImage(_read(blobs, entry["Config"]), tuple(entry["Layers"]), tuple(entry.get("RepoTags") or ()))
        for entry in _json(blobs, "manifest.json")
    ]


def _oci_images(blobs: Blobs, index: dict[str, Any], tag: str) -> list[ArchivedImage]:
    images = []
    for entry in index["manifests"]:
        notes = entry.get("annotations") or {}
        name = notes.get("io.containerd.image.name") or notes.get("org.opencontainers.image.ref.name") or tag
        platform = entry.get("platform") or {"os": "linux", "architecture": "amd64"}
        document = _json(blobs, _blob(entry["digest"]))
        if entry.get("mediaType") in _INDEX_TYPES or "manifests" in document:
            images += _oci_images(blobs, document, name)
        elif platform.get("os") == "linux" and platform.get("architecture") == native_architecture():
            layers = tuple(_blob(layer["digest"]) for layer in document["layers"])
            images.append(ArchivedImage(_read(blobs, _blob(document["config"]["digest"])), layers, (name,) if name else ()))
    return images


def native_architecture() -> str:
    """As images name it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _timestamp(text: str) -> Nanoseconds:
    try:
        return max(0, parse_timestamp(text)) if text else 0
    except ValueError:
        return 0


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _blob(digest: str) -> str:
    return f"blobs/sha256/{_hex(digest)}"


def _read(blobs: Blobs, name: str) -> bytes:
    with blobs.open(name) as file:
        return file.read(_JSON_MAX)


def _json(blobs: Blobs, name: str) -> Any:
    return msgspec.json.decode(_read(blobs, name))
