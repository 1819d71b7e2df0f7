"""The images of one host: `runtime.base.Images` on a directory.

    <root>/index.json        all images with their tags, replaced whole at each change
    <root>/layers/<digest>/  layers, unpacked; several hosts of one machine may share a directory of them
    <root>/tmp/              what is being fetched

Only what is needed to run an image is kept, so there is no way back to the archive that it came from.
"""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from hashlib import sha256
from pathlib import Path

import msgspec

from weft.errors import Conflict, NotFound, OperationFailed, cause_of
from weft.model.container import Image
from weft.model.ids import ContainerId
from weft.model.meta import Nanoseconds
from weft.model.references import parse, qualified
from weft.runtime.archive import ArchivedImage, Blobs, decode_image, diff_ids, open_archive, open_directory
from weft.runtime.layers import LayerStore
from weft.runtime.skopeo import Registry
from weft.system.files import make_directory, replace_file

_SHORT = 12


class ImageStore:
    def __init__(self, root: Path, clock: Callable[[], Nanoseconds], shared: Path | None = None) -> None:
        """`shared`: a directory of layers used together with other stores, which is never cleared by this one. Raises
        `OperationFailed` if the directory cannot be made, or its index not read."""
        self._root = root
        self._clock = clock
        self._layers = LayerStore(shared if shared is not None else root / "layers")
        self._owns_layers = shared is None
        self._registry = Registry()
        self._users: Callable[[str], list[ContainerId]] = lambda _: []
        self._make_root()
        self._images: dict[str, Image] = {image.id: image for image in self._read_index()}
        shutil.rmtree(root / "tmp", ignore_errors=True)

    def set_users(self, users: Callable[[str], list[ContainerId]]) -> None:
        self._users = users

    def layer_directories(self, image: Image) -> list[Path]:
        return [self._layers.path(digest) for digest in image.layers]

    # finding

    def all(self) -> list[Image]:
        return sorted(self._images.values(), key=lambda image: (-image.created, image.id))

    def find(self, reference: str) -> Image:
        bare = reference.removeprefix("sha256:")
        if f"sha256:{bare}" in self._images:
            return self._images[f"sha256:{bare}"]
        image = None if reference.startswith("sha256:") else self._find_by_name(reference)
        image = image or self._find_by_prefix(bare)
        if image is None:
            name, tag, digest = parse(reference) if not reference.startswith("sha256:") else (reference, "", "")
            raise NotFound(f"No such image: {_text(name, tag, digest)}")
        return image

    def _find_by_name(self, reference: str) -> Image | None:
        name, tag, digest = parse(reference)
        wanted = f"{name}@{digest}" if digest else f"{name}:{tag}"
        return next((image for image in self._images.values() if wanted in (*image.tags, *image.digests)), None)

    def _find_by_prefix(self, prefix: str) -> Image | None:
        found = [image for id, image in self._images.items() if id.startswith(f"sha256:{prefix}")] if prefix else []
        return found[0] if len(found) == 1 else None

    # getting

    async def pull(self, reference: str) -> AsyncIterator[str]:
        name, tag, digest = parse(reference)
        path = qualified(name).partition("/")[2]
        yield f"{tag or digest}: Pulling from {path}"
        found = await self._registry.digest(name, tag, digest)
        yield f"Digest: {found}"
        known = next((image for image in self._images.values() if f"{name}@{found}" in image.digests), None)
        text = _text(name, tag, digest)
        if known is None:
            known = await self._fetch(name, text, found)
            yield f"Status: Downloaded newer image for {text}"
        else:
            yield f"Status: Image is up to date for {text}"
        self._put(known, tags=[text] if tag else [], digests=[f"{name}@{found}"])

    async def _fetch(self, name: str, text: str, digest: str) -> Image:
        directory = self._temporary()
        try:
            await self._registry.fetch(name, digest, directory)
            blobs, archived = open_directory(directory, text)
            return await asyncio.to_thread(self._unpack, blobs, archived)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    async def load(self, archive: AsyncIterator[bytes]) -> list[str]:
        path = self._temporary() / "archive.tar"
        try:
            with path.open("wb") as file:
                async for chunk in archive:
                    file.write(chunk)
            images = await asyncio.to_thread(self._unpack_archive, path)
        except OSError as error:
            raise OperationFailed(f"cannot load image: {error}") from error
        finally:
            shutil.rmtree(path.parent, ignore_errors=True)
        names = []
        for image, tags in images:
            familiar = [_text(*parse(tag)) for tag in tags]
            self._put(image, tags=familiar, digests=[])
            names += familiar or [image.id]
        return names

    def _unpack_archive(self, path: Path) -> list[tuple[Image, tuple[str, ...]]]:
        with open_archive(path) as (blobs, images):
            return [(self._unpack(blobs, archived), archived.tags) for archived in images]

    def _unpack(self, blobs: Blobs, archived: ArchivedImage) -> Image:
        size = 0
        for digest, name in zip(diff_ids(archived), archived.layers, strict=True):
            known = self._layers.size(digest)
            if known is None:
                with blobs.open(name) as stream:
                    known = self._layers.add(digest, stream)
            size += known
        return decode_image(f"sha256:{sha256(archived.config).hexdigest()}", archived, size)

    # names and removal

    async def tag(self, reference: str, new: str) -> None:
        name, tag, _ = parse(new)
        self._put(self.find(reference), tags=[f"{name}:{tag}"], digests=[])

    async def remove(self, reference: str, force: bool = False) -> list[tuple[str, str]]:
        image = self.find(reference)
        by_id = image.id.removeprefix("sha256:").startswith(reference.removeprefix("sha256:"))
        gone = list(image.tags) if by_id else [_text(*parse(reference))]
        short = image.id.removeprefix("sha256:")[:_SHORT]
        if by_id and len({parse(tag)[0] for tag in gone}) > 1 and not force:
            raise Conflict(
                f"conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
            )
        left = [tag for tag in image.tags if tag not in gone]
        users = self._users(image.id) if not left else []
        if users and not force:
            what = f"delete {short}" if by_id else f'remove repository reference "{reference}"'
            raise Conflict(
                f"conflict: unable to {what} (must force) - container {users[0][:_SHORT]} is using its referenced image {short}"
            )
        done = [("Untagged", tag) for tag in gone]
        if left or users:
            self._images[image.id] = msgspec.structs.replace(image, tags=tuple(left))
            self._write_index()
            return done
        del self._images[image.id]
        self._write_index()
        return [*done, *(("Untagged", digest) for digest in image.digests), ("Deleted", image.id), *self._remove_layers(image)]

    def _remove_layers(self, image: Image) -> list[tuple[str, str]]:
        """Those that no other image has."""
        if not self._owns_layers:
            return []
        used = {digest for other in self._images.values() for digest in other.layers}
        gone = [digest for digest in reversed(image.layers) if digest not in used]
        for digest in gone:
            self._layers.remove(digest)
        return [("Deleted", digest) for digest in gone]

    # the index

    def _put(self, image: Image, tags: Iterable[str], digests: Iterable[str]) -> None:
        """Adds the image, or names to it. A tag is one image's only: another loses it."""
        new = set(tags)
        for other in list(self._images.values()):
            if new & set(other.tags) and other.id != image.id:
                kept = tuple(tag for tag in other.tags if tag not in new)
                self._images[other.id] = msgspec.structs.replace(other, tags=kept)
        old = self._images.get(image.id, image)
        self._images[image.id] = msgspec.structs.replace(
            old, tags=tuple(dict.fromkeys((*old.tags, *tags))), digests=tuple(dict.fromkeys((*old.digests, *digests)))
        )
        self._write_index()

    def _make_root(self) -> None:
        """For root only: an image may have set-user-id programs, which are for its containers and not for this host's users."""
        try:
            make_directory(self._root, 0o700)
        except OSError as error:
            raise OperationFailed(f"cannot make directory {self._root}: {cause_of(error)}") from error

    def _read_index(self) -> list[Image]:
        path = self._root / "index.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=list[Image])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise OperationFailed(f"cannot read image index {path}: {error}") from error

    def _write_index(self) -> None:
        path = self._root / "index.json"
        try:
            replace_file(path, msgspec.json.encode(list(self._images.values())))
        except OSError as error:
            raise OperationFailed(f"cannot write image index {path}: {error}") from error

    def _temporary(self) -> Path:
        path = self._root / "tmp" / secrets.token_hex(8)
        make_directory(path, 0o700)
        return path


def _text(name: str, tag: str, digest: str) -> str:
    return f"{name}@{digest}" if digest else f"{name}:{tag}" if tag else name
