"""Images on their way out, and new ones that are made here: `runtime.base.ImageExchange` on an image
store. Threads do all slow work, piece by piece."""

import hashlib
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from weft.errors import InvalidArgument, NotFound, OperationFailed, cause_of
from weft.model.container import HistoryStep, Image, NewImage
from weft.model.references import parse, qualified
from weft.model.registry import Pushed, PushStep, RegistryAuth
from weft.runtime.archive import expanded, native_architecture
from weft.runtime.compression import CHUNK
from weft.runtime.copy_out import in_pieces
from weft.runtime.image_config import LAYERS_MAX, decode_history, decode_image
from weft.runtime.image_document import encode_image
from weft.runtime.image_writer import Chosen, check_can_leave, choose, docker_manifest, save
from weft.runtime.images import ImageStore, Named
from weft.runtime.layers import Staging
from weft.runtime.malformed import Malformed
from weft.runtime.receive import receive
from weft.runtime.room import Room
from weft.runtime.tar import BLOCK

_DIRECTORY_VERSION = b"Directory Transport Version: 1.1\n"
"""Content of the file `version` in the directories that skopeo reads."""


class StoreExchange:
    def __init__(self, store: ImageStore) -> None:
        self._store = store

    async def history(self, reference: str) -> list[tuple[HistoryStep, int]]:
        image = self._store.find(reference)
        if not image.document:
            raise OperationFailed(
                f"cannot show the history of {image.id}: pull or load it again, for it came before"
                " Weft kept it"
            )
        try:
            steps = decode_history(image.id, image.document)
        except Malformed as error:
            raise OperationFailed(f"cannot show the history of {image.id}: {error}") from error
        if sum(step.has_layer for step in steps) > len(image.layers):
            raise OperationFailed(
                f"cannot show the history of {image.id}: too many non-empty layers in History"
                " section"
            )
        sizes = await self._store.layer_sizes()
        layers = iter(image.layers)
        return [(step, sizes.get(next(layers), 0) if step.has_layer else 0) for step in steps]

    # saving

    async def save(self, references: Sequence[str]) -> AsyncGenerator[bytes, None]:
        store = self._store
        chosen = choose(references, store.all(), store.find)
        pieces = await store.threads.finish(self._checked, chosen, "save image")
        stop = threading.Event()
        try:
            while piece := await store.threads.run(stop, next, pieces, b""):
                yield piece
        except OSError as error:
            raise OperationFailed(f"cannot save images: {cause_of(error)}") from error
        finally:
            await store.threads.finish(_close, pieces)

    def _checked(self, chosen: Sequence[Chosen], task: str) -> Iterator[bytes]:
        for one in chosen:
            check_can_leave(one.image, self._store.layers, task)
        return in_pieces(save(chosen, self._store.layers))

    # pushing

    async def push(
        self, name: str, tag: str, auth: RegistryAuth | None
    ) -> AsyncGenerator[PushStep, None]:
        familiar, _, digest = parse(f"{name}:{tag}" if tag else name)
        if digest:
            raise InvalidArgument("cannot push a digest reference")
        yield PushStep(f"The push refers to repository [{qualified(familiar)}]")
        tags = [tag] if tag else self._tags(familiar)
        if not tags:
            raise NotFound(f"An image does not exist locally with the tag: {familiar}")
        for each in tags:
            async for step in self._push(familiar, each, auth):
                yield step

    def _tags(self, name: str) -> list[str]:
        parsed = [parse(tag) for image in self._store.all() for tag in image.tags]
        return [tag for other, tag, _ in parsed if other == name]

    async def _push(
        self, name: str, tag: str, auth: RegistryAuth | None
    ) -> AsyncGenerator[PushStep, None]:
        store, wanted = self._store, f"{name}:{tag}"
        image = next((image for image in store.all() if wanted in image.tags), None)
        if image is None:
            raise NotFound(f"An image does not exist locally with the tag: {name}")
        from_the_top = list(dict.fromkeys(reversed(image.layers)))
        for layer in from_the_top:
            yield PushStep("Preparing", layer)
        async with store.temporary() as (directory, stop):
            await store.threads.run(stop, self._lay_out, image, directory, stop)
            sent = await store.registry.send(name, tag, directory, auth)
        for layer in from_the_top:
            yield PushStep("Pushed", layer)
        await store.note_digest(image, f"{name}@{sent.digest}")
        yield PushStep(
            f"{tag}: digest: {sent.digest} size: {sent.size}",
            pushed=Pushed(tag=tag, digest=sent.digest, size=sent.size),
        )

    def _lay_out(self, image: Image, directory: Path, stop: threading.Event) -> None:
        """Runs in a thread. Raises `OperationFailed`."""
        layers = self._store.layers
        check_can_leave(image, layers, "push image")
        try:
            room = Room(directory, stop.is_set)
            (directory / "version").write_bytes(_DIRECTORY_VERSION)
            (directory / "manifest.json").write_bytes(docker_manifest(image, layers))
            (directory / _hex(image.id)).write_bytes(image.document)
            for digest in dict.fromkeys(image.layers):
                with (directory / _hex(digest)).open("wb") as file:
                    for piece in layers.archive(digest):
                        room.take(len(piece))
                        file.write(piece)
        except OSError as error:
            raise OperationFailed(f"cannot push image {image.id}: {cause_of(error)}") from error
        except OperationFailed as error:
            raise OperationFailed(f"cannot push image {image.id}: {error}") from error

    # making

    async def make(self, new: NewImage, layer: AsyncIterator[bytes]) -> Image:
        store = self._store
        if new.base is not None and not new.base.document:
            raise OperationFailed(
                f"cannot {new.task}: pull or load its image again, for it came before Weft kept"
                " what this needs"
            )
        if new.base is not None and len(new.base.layers) >= LAYERS_MAX:
            raise OperationFailed(f"cannot {new.task}: max depth exceeded")
        async with store.temporary() as (directory, stop):
            path = directory / "layer.tar"
            await receive(layer, path, store.threads, stop, new.task)
            added = await store.take_in(stop, self._make, path, new, stop.is_set)
        return store.find(added[0].image.id)

    def _make(
        self, staging: Staging, path: Path, new: NewImage, stopped: Callable[[], bool]
    ) -> list[Named]:
        """Runs in a thread."""
        try:
            plain = expanded(path, Room(path.parent, stopped))
            digest = _layer_digest(plain, stopped)
            base = new.base
            size = base.size if base is not None else 0
            if digest:
                known = staging.size(digest)
                size += staging.add(digest, plain.open("rb")) if known is None else known
            document = encode_image(new, digest, native_architecture(), self._store.clock())
            image = decode_image("the new image's configuration", document)
        except Malformed as error:
            raise InvalidArgument(f"cannot {new.task}: {error}") from error
        except OSError as error:
            raise OperationFailed(f"cannot {new.task}: {cause_of(error)}") from error
        named = msgspec.structs.replace(image, size=size)
        return [Named(named, (new.name,) if new.name else ())]


def _layer_digest(path: Path, stopped: Callable[[], bool]) -> str:
    """Empty for a tar without entries. Raises `Malformed`, `OSError`."""
    digest, size, is_empty = hashlib.sha256(), 0, True
    with path.open("rb") as file:
        while not stopped() and (data := file.read(CHUNK)):
            digest.update(data)
            size += len(data)
            is_empty = is_empty and not data.strip(b"\0")
    if size < BLOCK:
        raise Malformed("it is not a tar")
    return "" if is_empty else f"sha256:{digest.hexdigest()}"


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _close(pieces: Iterator[bytes]) -> None:
    close = getattr(pieces, "close", None)
    if close is not None:
        close()
