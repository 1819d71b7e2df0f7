"""Image archives: `docker save` archives, OCI archives, and the directory that skopeo writes.

Each is a set of named blobs. Some blobs are JSON and name the blobs of an image's configuration and
layers. All JSON is decoded strictly and all counts are bounded before any layer is unpacked.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Annotated, Protocol, TypeVar

import msgspec
from msgspec import Meta

from weft.errors import InvalidArgument, OperationFailed
from weft.model.container import Image, is_digest
from weft.model.references import parse
from weft.runtime.compression import CHUNK, Stream, decompressed
from weft.runtime.image_config import LAYERS_MAX, decode_document, decode_image
from weft.runtime.malformed import Malformed, shown
from weft.runtime.room import Room
from weft.runtime.tar import Entry, Kind, Reader

T = TypeVar("T")

_ENTRIES_MAX = 100_000
_DOCUMENT_MAX = 4 << 20
"""Bytes of one JSON document: Docker's limit for a manifest."""
_DOCUMENTS_MAX = 64 << 20
"""Bytes of all JSON that is read from one archive."""
_IMAGES_MAX = 1000
_TAGS_MAX = 1000
"""Tags of one image."""
_INDEX_DEPTH_MAX = 4
_DESCRIPTORS_MAX = 10_000
"""Descriptors in all indexes together."""
_LINKS_MAX = 10
_PLATFORMS_SHOWN = 5
_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_IMAGE_NAME = "io.containerd.image.name"
_REFERENCE_NAME = "org.opencontainers.image.ref.name"

_Name = Annotated[str, Meta(max_length=4095)]
_Reference = Annotated[str, Meta(max_length=512)]


class _Item(msgspec.Struct, frozen=True, rename="pascal"):
    """One image in a docker archive's manifest.json."""

    config: _Name
    layers: Annotated[list[_Name], Meta(max_length=LAYERS_MAX)] | None = None
    repo_tags: Annotated[list[_Reference], Meta(max_length=_TAGS_MAX)] | None = None


class _Platform(msgspec.Struct, frozen=True):
    os: Annotated[str, Meta(max_length=64)] = ""
    architecture: Annotated[str, Meta(max_length=64)] = ""

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}"

    @property
    def is_no_image(self) -> bool:
        """Whether this is a builder's attestation of an image, stored beside it."""
        return self.os == self.architecture == "unknown"


class _Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    media_type: _Name = ""
    platform: _Platform | None = None
    annotations: dict[str, str] | None = None

    def __post_init__(self) -> None:
        """Checks the digest, which becomes a file name. Raises `ValueError`."""
        if not is_digest(self.digest):
            raise ValueError(f"digest is none: {shown(self.digest)}")


class _Document(msgspec.Struct, frozen=True):
    """An index if it has `manifests`, otherwise an image's manifest."""

    manifests: Annotated[list[_Descriptor], Meta(max_length=_DESCRIPTORS_MAX)] | None = None
    config: _Descriptor | None = None
    layers: Annotated[list[_Descriptor], Meta(max_length=LAYERS_MAX)] | None = None


class Blobs(Protocol):
    def open(self, name: str) -> AbstractContextManager[Stream]:
        """Raises `Malformed` if the blob does not exist."""
        ...


class ArchivedImage(msgspec.Struct, frozen=True):
    image: Image
    """The image without names and without its size, which is not known yet."""
    blobs: tuple[str, ...]
    """The blobs of the image's layers, bottom first."""
    tags: tuple[str, ...]
    """Tags in familiar form."""


@contextmanager
def open_archive(path: Path, room: Room) -> Iterator[tuple[Blobs, list[ArchivedImage]]]:
    """Opens a tar that `docker save` or an OCI tool wrote; a compressed tar is first expanded
    beside `path`. Raises `InvalidArgument` if the file is no image archive, `OperationFailed`,
    `OSError`."""
    with ExitStack() as stack:
        try:
            plain = expanded(path, room)
            blobs = _Tar(stack.enter_context(plain.open("rb")), room)
            documents = _Documents(blobs)
            if blobs.has("manifest.json"):
                images = _docker_images(documents)
            elif blobs.has("index.json"):
                images = _OciImages(documents).images()
            else:
                raise Malformed("it has neither manifest.json nor index.json")
        except Malformed as error:
            raise InvalidArgument(f"cannot load image: {error}") from error
        except OperationFailed as error:
            raise OperationFailed(f"cannot load image: {error}") from error
        yield blobs, images


def open_directory(path: Path, name: str) -> tuple[Blobs, ArchivedImage]:
    """Opens the output of `skopeo copy … dir:`: blobs named by their digest. Raises
    `InvalidArgument`."""
    blobs = _Files(path)
    documents = _Documents(blobs)
    try:
        manifest = documents.read("manifest.json", _Document)
        if manifest.config is None:
            raise Malformed("'manifest.json': it is not the manifest of an image, or of a version"
                            " that is no longer in use")  # fmt: skip
        return blobs, _archived(
            documents.image(_hex(manifest.config.digest)),
            [_hex(layer.digest) for layer in manifest.layers or ()],
            [],
        )
    except Malformed as error:
        raise InvalidArgument(f"cannot pull {name}: {error}") from error


def native_architecture() -> str:
    """This machine's architecture, as images name it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def expanded(path: Path, room: Room) -> Path:
    """The plain tar. Blobs are read in any order, which a compressed file does not support."""
    with path.open("rb") as stream:
        source = decompressed(stream)
        if source is stream:
            return path
        plain = path.with_suffix(".plain")
        with plain.open("wb") as file:
            while data := source.read(CHUNK):
                room.take(len(data))
                file.write(data)
    path.unlink()
    return plain


class _Tar:
    """The files of a tar on disk, by name. If several have one name the last counts."""

    def __init__(self, file: IO[bytes], room: Room) -> None:
        self._file = file
        self._entries: dict[bytes, Entry] = {}
        size = os.fstat(file.fileno()).st_size

        def skip(count: int) -> None:
            room.take(0)
            if file.seek(count, os.SEEK_CUR) > size:
                raise Malformed("it ends in the middle of an entry")

        for number, entry in enumerate(Reader(file, skip).entries()):
            if number >= _ENTRIES_MAX:
                raise Malformed(f"it has more than {_ENTRIES_MAX} entries")
            self._entries[_normal(entry.name)] = entry

    def has(self, name: str) -> bool:
        return name.encode() in self._entries

    @contextmanager
    def open(self, name: str) -> Iterator[Stream]:
        path = _normal(name.encode())
        for _ in range(_LINKS_MAX):
            entry = self._entries.get(path)
            match entry.kind if entry else None:
                case Kind.SYMLINK if entry:
                    path = _normal(os.path.join(os.path.dirname(path), entry.target))
                case Kind.HARD_LINK if entry:
                    path = _normal(entry.target)
                case Kind.FILE if entry and entry.segments is None:
                    yield _Slice(self._file.fileno(), entry.offset, entry.size)
                    return
                case _:
                    raise Malformed(f"there is no file {shown(name)} in it")
        raise Malformed(f"{shown(name)} in it is a link that leads nowhere")


class _Slice:
    """A part of a file, as a file of its own."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._size = size
        self._position = 0

    def read(self, size: int, /) -> bytes:
        wanted = min(size, self._size - self._position)
        data = os.pread(self._fd, wanted, self._offset + self._position)
        self._position += len(data)
        return data

    def seek(self, position: int, /) -> int:
        self._position = position
        return position


class _Files:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @contextmanager
    def open(self, name: str) -> Iterator[Stream]:
        try:
            file = (self._directory / Path(name).name).open("rb")
        except OSError as error:
            raise Malformed(f"there is no file {shown(name)} in it") from error
        with file:
            yield file


class _Documents:
    """The JSON documents of an archive, with a limit for their total size."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._total = 0

    def read(self, name: str, type_: type[T], digest: str = "") -> T:
        return decode_document(name, self._raw(name, digest), type_)

    def image(self, name: str, digest: str = "") -> Image:
        image = decode_image(name, self._raw(name, digest))
        if image.os != "linux":
            raise Malformed(f"{shown(name)}: it is an image for {shown(image.os)}")
        return image

    def _raw(self, name: str, digest: str) -> bytes:
        """`digest`: the expected digest; empty if unknown."""
        parts, size = [], 0
        with self._blobs.open(name) as stream:
            while data := stream.read(CHUNK):
                parts.append(data)
                size += len(data)
                if size > _DOCUMENT_MAX:
                    raise Malformed(f"{shown(name)} has more than {_DOCUMENT_MAX} bytes")
        self._total += size
        if self._total > _DOCUMENTS_MAX:
            raise Malformed(f"its JSON documents have more than {_DOCUMENTS_MAX} bytes in all")
        raw = b"".join(parts)
        if digest and f"sha256:{sha256(raw).hexdigest()}" != digest:
            raise Malformed(f"{shown(name)} has another digest")
        return raw


def _docker_images(documents: _Documents) -> list[ArchivedImage]:
    items = documents.read("manifest.json", list[_Item])
    if not items:
        raise Malformed("'manifest.json' names no image")
    if len(items) > _IMAGES_MAX:
        raise Malformed(f"'manifest.json' names more than {_IMAGES_MAX} images")
    return [
        _archived(documents.image(item.config), item.layers or [], item.repo_tags or [])
        for item in items
    ]


class _OciImages:
    """The images of index.json that fit this host's platform."""

    def __init__(self, documents: _Documents) -> None:
        self._documents = documents
        self._native = _Platform("linux", native_architecture())
        self._seen = 0
        self._found: list[ArchivedImage] = []
        self._names: set[str] = set()
        """Names of the images in `_found`."""
        self._foreign: dict[str, set[str]] = {}
        """Platforms of the images that do not fit, by name."""

    def images(self) -> list[ArchivedImage]:
        index = self._documents.read("index.json", _Document)
        if index.manifests is None:
            raise Malformed("'index.json': it has no `manifests`")
        self._walk(index.manifests, "", 1)
        for name, platforms in self._foreign.items():
            if name not in self._names:
                what = f"image {shown(name)}" if name else "the image in it"
                others = ", ".join(sorted(map(shown, platforms))[:_PLATFORMS_SHOWN])
                raise Malformed(f"{what} is for {others}, and this host is {self._native}")
        if not self._found:
            raise Malformed("'index.json' names no image")
        return self._found

    def _walk(self, manifests: list[_Descriptor], name: str, depth: int) -> None:
        if depth > _INDEX_DEPTH_MAX:
            raise Malformed(f"its indexes are nested more than {_INDEX_DEPTH_MAX} deep")
        for entry in manifests:
            self._seen += 1
            if self._seen > _DESCRIPTORS_MAX:
                raise Malformed(f"its indexes name more than {_DESCRIPTORS_MAX} manifests")
            notes = entry.annotations or {}
            own = notes.get(_IMAGE_NAME) or notes.get(_REFERENCE_NAME) or name
            platform = entry.platform
            if platform is not None and platform.is_no_image:
                continue
            is_index = entry.media_type in _INDEX_TYPES
            if not is_index and platform not in (None, _Platform(), self._native):
                self._foreign.setdefault(own, set()).add(str(platform))
                continue
            blob = _blob(entry.digest)
            document = self._documents.read(blob, _Document, entry.digest)
            if document.manifests is not None:
                self._walk(document.manifests, own, depth + 1)
            else:
                self._add(blob, document, own)

    def _add(self, blob: str, manifest: _Document, name: str) -> None:
        if manifest.config is None:
            raise Malformed(f"{shown(blob)}: it is neither an index nor the manifest of an image")
        if len(self._found) >= _IMAGES_MAX:
            raise Malformed(f"its indexes name more than {_IMAGES_MAX} images")
        config = self._documents.image(_blob(manifest.config.digest), manifest.config.digest)
        layers = [_blob(layer.digest) for layer in manifest.layers or ()]
        self._found.append(_archived(config, layers, [name] if name else []))
        self._names.add(name)


def _archived(image: Image, blobs: list[str], references: list[str]) -> ArchivedImage:
    if len(blobs) != len(image.layers):
        raise Malformed(
            f"it has {len(blobs)} layers for image {image.id},"
            f" whose configuration names {len(image.layers)}"
        )
    return ArchivedImage(image, tuple(blobs), tuple(map(_tag, references)))


def _tag(reference: str) -> str:
    """The reference in familiar form, with `latest` if it has no tag."""
    try:
        name, tag, digest = parse(reference)
    except InvalidArgument as error:
        raise Malformed(f"an image in it has the invalid name {shown(reference)}") from error
    if digest:
        raise Malformed(f"an image in it has a digest for a tag: {shown(reference)}")
    return f"{name}:{tag}"


def _normal(path: bytes) -> bytes:
    return os.path.normpath(b"/" + path).lstrip(b"/")


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _blob(digest: str) -> str:
    return f"blobs/sha256/{_hex(digest)}"
