"""The images of one host: `runtime.base.Images` on a directory.

    <root>/index.json        all images with their names (`image_index.py`)
    <root>/layers/<digest>/  layers, unpacked; several hosts on one machine may share a directory of
                             layers (`layers.py`)
    <root>/tmp/              archives that are being pulled or loaded

Only the last step of pulling or loading an image is visible. The blobs are fetched, the JSON is
decoded, and the layers are unpacked beside the existing ones. Then the layers are moved to their
places and the index is written, once for all images of an archive. An error before that leaves
nothing behind.

Threads do all slow work. What a layer's archive has beside the content of its files is kept as well,
and so is the image's configuration: `image_exchange.py` gives images back as they came.
"""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec

import msgspec

from weft.errors import Conflict, NotFound, OperationFailed, cause_of
from weft.model.container import Image
from weft.model.ids import ContainerId
from weft.model.meta import Nanoseconds
from weft.model.references import parse, qualified
from weft.model.registry import USUAL, Distribution, RegistryAuth, RegistrySettings
from weft.runtime.archive import ArchivedImage, Blobs, open_archive, open_directory
from weft.runtime.image_index import ImageIndex
from weft.runtime.layers import LayerStore, Staging, remove_all
from weft.runtime.receive import receive
from weft.runtime.registry_login import log_in
from weft.runtime.room import Room
from weft.runtime.skopeo import Registry
from weft.runtime.threads import Threads
from weft.system.files import make_directory

P = ParamSpec("P")

_SHORT = 12
_THREADS = 4
_UNPACKING = 2
"""Images that are unpacked at the same time. The other threads write incoming data and the
index."""


class Named(msgspec.Struct, frozen=True):
    """An image with names to add to the names that it may have already."""

    image: Image
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()


class ImageStore:
    def __init__(
        self,
        root: Path,
        clock: Callable[[], Nanoseconds],
        shared: Path | None = None,
        registries: RegistrySettings = USUAL,
    ) -> None:
        """`shared`: a directory of layers that other stores use too, and that this store never
        cleans up. Raises `OperationFailed` if the directory cannot be made."""
        self._root = root
        self.clock = clock
        self.layers = LayerStore(shared if shared is not None else root / "layers")
        self._owns_layers = shared is None
        self._registries = registries
        self.registry = Registry(registries)
        self._users: Callable[[str], list[ContainerId]] = lambda _: []
        self.threads = Threads("images", _THREADS)
        self._unpacking = asyncio.Semaphore(_UNPACKING)
        self._changing = asyncio.Lock()
        """Held to change the index or the set of layers."""
        self._index = ImageIndex(root)
        self._make_root()
        self._images: Mapping[str, Image] = {image.id: image for image in self._index.read()}

    def _make_root(self) -> None:
        """Only root may enter: an image may have set-user-id programs, which are for its containers
        and not for the host's users."""
        try:
            make_directory(self._root, 0o700)
        except OSError as error:
            raise OperationFailed(
                f"cannot make directory {self._root}: {cause_of(error)}"
            ) from error
        left = list((self._root / "tmp").glob("*"))
        left += self.layers.left_over() if self._owns_layers else []
        if left:
            self.threads.begin(remove_all, left)  # slow, and not urgent

    def set_users(self, users: Callable[[str], list[ContainerId]]) -> None:
        self._users = users

    def layer_directories(self, image: Image) -> list[Path]:
        """Layers, bottom first. If an image has a layer twice only the upper copy counts: it hides
        everything that the lower copy could add, and overlayfs accepts no directory twice."""
        from_the_top = dict.fromkeys(reversed(image.layers))
        return [self.layers.path(digest) for digest in reversed(from_the_top)]

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
            name, tag, digest = (
                (reference, "", "") if reference.startswith("sha256:") else parse(reference)
            )
            raise NotFound(f"No such image: {_text(name, tag, digest)}")
        return image

    def _find_by_name(self, reference: str) -> Image | None:
        name, tag, digest = parse(reference)
        wanted = f"{name}@{digest}" if digest else f"{name}:{tag}"
        return self._find_by(lambda image: wanted in (*image.tags, *image.digests))

    def _find_by(self, condition: Callable[[Image], bool]) -> Image | None:
        return next((image for image in self._images.values() if condition(image)), None)

    def _find_by_prefix(self, prefix: str) -> Image | None:
        found = [id for id in self._images if prefix and id.startswith(f"sha256:{prefix}")]
        return self._images[found[0]] if len(found) == 1 else None

    async def layer_sizes(self) -> dict[str, int]:
        digests = {digest for image in self._images.values() for digest in image.layers}
        return await self.threads.finish(
            lambda: {digest: self.layers.size(digest) or 0 for digest in digests}
        )

    # pulling and loading

    async def log_in(self, server: str, auth: RegistryAuth) -> str:
        return await log_in(server, auth, self._registries)

    async def distribution(self, reference: str, auth: RegistryAuth | None = None) -> Distribution:
        return await self.registry.distribution(*parse(reference), auth)

    async def pull(self, reference: str, auth: RegistryAuth | None = None) -> AsyncIterator[str]:
        name, tag, digest = parse(reference)
        path = qualified(name).partition("/")[2]
        found = await self.registry.digest(name, tag, digest, auth)
        yield f"{tag or digest}: Pulling from {path}"  # not before: an error has its own status
        yield f"Digest: {found}"
        text, whole = _text(name, tag, digest), f"{name}@{found}"
        tags = (text,) if tag and not digest else ()  # a digest counts, and the tag beside it not
        if await self._name_known(tags, whole):
            yield f"Status: Image is up to date for {text}"
        else:
            await self._fetch(name, text, tags, whole, auth)
            yield f"Status: Downloaded newer image for {text}"

    async def _name_known(self, tags: tuple[str, ...], whole: str) -> bool:
        """Whether the image is here with all its layers; if so it has the tags when this
        returns."""
        async with self._changing:
            known = self._find_by(lambda image: whole in image.digests)
            if known is None or not await self.threads.finish(self._is_whole, known):
                return False
            await self._keep([Named(known, tags, (whole,))])
            return True

    def _is_whole(self, image: Image) -> bool:
        return bool(image.document) and all(map(self.layers.is_whole, image.layers))

    async def _fetch(
        self, name: str, text: str, tags: tuple[str, ...], whole: str, auth: RegistryAuth | None
    ) -> None:
        async with self.temporary() as (directory, stop):
            room = Room(directory, stop.is_set)
            await self.registry.fetch(name, whole.rpartition("@")[2], directory, room, auth)
            await self.take_in(stop, self._unpack_directory, directory, text, tags, whole)

    async def load(self, archive: AsyncIterator[bytes]) -> list[str]:
        async with self.temporary() as (directory, stop):
            path = directory / "archive.tar"
            await receive(archive, path, self.threads, stop, "load image")
            added = await self.take_in(stop, self._unpack_archive, path, stop.is_set)
        return [name for named in added for name in named.tags or (named.image.id,)]

    async def take_in(
        self,
        stop: threading.Event,
        unpack: Callable[Concatenate[Staging, P], list[Named]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[Named]:
        staging = Staging(self.layers, stop.is_set)
        try:
            async with self._unpacking:
                added = await self.threads.run(stop, unpack, staging, *args, **kwargs)
            async with self._changing:
                await self._keep(added, staging)
        finally:
            await self.threads.finish(staging.drop)
        return added

    # in a thread

    def _unpack_archive(
        self, staging: Staging, path: Path, stopped: Callable[[], bool]
    ) -> list[Named]:
        try:
            with open_archive(path, Room(path.parent, stopped)) as (blobs, images):
                return [Named(_unpack(staging, blobs, image), image.tags) for image in images]
        except OSError as error:
            raise OperationFailed(f"cannot load image: {cause_of(error)}") from error

    def _unpack_directory(
        self, staging: Staging, path: Path, text: str, tags: tuple[str, ...], whole: str
    ) -> list[Named]:
        try:
            blobs, image = open_directory(path, text)
            return [Named(_unpack(staging, blobs, image), tags, (whole,))]
        except OSError as error:
            raise OperationFailed(f"cannot pull {text}: {cause_of(error)}") from error

    # names and removal

    async def note_digest(self, image: Image, digest: str) -> None:
        """`digest`: `name@sha256:…`, under which a registry has the image now."""
        async with self._changing:
            if image.id in self._images:
                await self._keep([Named(image, (), (digest,))])

    async def tag(self, reference: str, new: str) -> None:
        name, tag, _ = parse(new)
        async with self._changing:
            await self._keep([Named(self.find(reference), (f"{name}:{tag}",))])

    async def remove(self, reference: str, force: bool = False) -> list[tuple[str, str]]:
        async with self._changing:
            image = self.find(reference)
            gone, left, users = self._untagged(image, reference, force)
            done = [("Untagged", tag) for tag in gone]
            if left or users:
                await self._write({**self._images, image.id: _with_tags(image, left)})
                return done
            others = {id: other for id, other in self._images.items() if id != image.id}
            await self._write(others)
            unused = self._unused_layers(image)
            trash = await self.threads.finish(self.layers.take_away, unused)
        await self.threads.finish(remove_all, trash)
        done += [("Untagged", digest) for digest in image.digests]
        return [*done, ("Deleted", image.id), *(("Deleted", digest) for digest in unused)]

    def _untagged(
        self, image: Image, reference: str, force: bool
    ) -> tuple[list[str], tuple[str, ...], list[ContainerId]]:
        """The tags to remove, the tags that stay and, if none stays, the containers that use the
        image. Raises `Conflict`."""
        by_id = image.id.removeprefix("sha256:").startswith(reference.removeprefix("sha256:"))
        gone = list(image.tags) if by_id else [_text(*parse(reference))]
        short = image.id.removeprefix("sha256:")[:_SHORT]
        if by_id and len({parse(tag)[0] for tag in gone}) > 1 and not force:
            raise Conflict(
                f"conflict: unable to delete {short} (must be forced)"
                " - image is referenced in multiple repositories"
            )
        left = tuple(tag for tag in image.tags if tag not in gone)
        users = self._users(image.id) if not left else []
        if users and not force:
            what = f"delete {short}" if by_id else f'remove repository reference "{reference}"'
            raise Conflict(
                f"conflict: unable to {what} (must force)"
                f" - container {users[0][:_SHORT]} is using its referenced image {short}"
            )
        return gone, left, users

    def _unused_layers(self, image: Image) -> list[str]:
        """Layers of a removed image that no other image has, the upper layers first."""
        if not self._owns_layers:
            return []
        used = {digest for other in self._images.values() for digest in other.layers}
        return [digest for digest in dict.fromkeys(reversed(image.layers)) if digest not in used]

    # changes, one at a time

    async def _keep(self, added: Sequence[Named], staging: Staging | None = None) -> None:
        """Images and names become visible when their layers are in their places and the index is on
        the disk."""
        images = _with_names(self._images, added)
        await self.threads.finish(self._settle, images, added, staging)
        self._images = images

    def _settle(
        self, images: Mapping[str, Image], added: Sequence[Named], staging: Staging | None
    ) -> None:
        """Runs in a thread."""
        if staging is None:
            self._index.write(images.values())
            return
        for named in added:
            if any(staging.size(digest) is None for digest in named.image.layers):
                raise OperationFailed(
                    f"cannot keep image {named.image.id}: a layer of it was removed meanwhile"
                )
        try:
            staging.publish()
            self.layers.sync()
            self._index.write(images.values())
        except BaseException as error:
            staging.withdraw()
            if isinstance(error, OSError):
                raise OperationFailed(f"cannot keep layers: {cause_of(error)}") from error
            raise

    async def _write(self, images: Mapping[str, Image]) -> None:
        """Hides removed images before it writes the index, so that no container is made from them
        meanwhile."""
        before, self._images = self._images, images
        try:
            await self.threads.finish(self._index.write, images.values())
        except OperationFailed:
            self._images = before
            raise

    @asynccontextmanager
    async def temporary(self) -> AsyncIterator[tuple[Path, threading.Event]]:
        """A directory, and the event that tells the threads that use it to stop."""
        path = self._root / "tmp" / secrets.token_hex(8)
        try:
            make_directory(path, 0o700)
        except OSError as error:
            raise OperationFailed(f"cannot make directory {path}: {cause_of(error)}") from error
        try:
            yield path, threading.Event()
        finally:
            await self.threads.finish(remove_all, (path,))


def _unpack(staging: Staging, blobs: Blobs, archived: ArchivedImage) -> Image:
    """Raises `InvalidArgument`, `OperationFailed`."""
    image, size = archived.image, 0
    for digest, blob in zip(image.layers, archived.blobs, strict=True):
        known = staging.size(digest)
        if known is None:
            known = staging.add(digest, blobs.open(blob))
        size += known
    return msgspec.structs.replace(image, size=size)


def _with_names(images: Mapping[str, Image], added: Iterable[Named]) -> dict[str, Image]:
    """A tag belongs to one image only: another image loses it."""
    result = dict(images)
    owners = {tag: id for id, image in images.items() for tag in image.tags}
    for named in added:
        id = named.image.id
        for tag in named.tags:
            owner = owners.get(tag, id)
            if owner != id:
                left = tuple(other for other in result[owner].tags if other != tag)
                result[owner] = _with_tags(result[owner], left)
            owners[tag] = id
        image = result.get(id, named.image)
        if not image.document:
            image = msgspec.structs.replace(image, document=named.image.document)
        digests = tuple(dict.fromkeys((*image.digests, *named.digests)))
        image = _with_tags(image, tuple(dict.fromkeys((*image.tags, *named.tags))))
        result[id] = msgspec.structs.replace(image, digests=digests)
    return result


def _with_tags(image: Image, tags: tuple[str, ...]) -> Image:
    return msgspec.structs.replace(image, tags=tags)


def _text(name: str, tag: str, digest: str) -> str:
    return f"{name}@{digest}" if digest else f"{name}:{tag}" if tag else name
