"""Images, with events of their changes, as in `docker events`: pull, load, tag, untag, delete.

An event is about the image's id; the event of a pull is about the reference that was asked for. Its
attributes are the image's labels and a name."""

from collections.abc import AsyncGenerator, AsyncIterator

from weft.engine.events import EventLog
from weft.errors import NotFound
from weft.model import references
from weft.model.container import Image
from weft.model.registry import Distribution, RegistryAuth
from weft.runtime.base import Images

UNTAGGED, DELETED = "Untagged", "Deleted"
"""The words of `Images.remove` for a name, and for an id."""


class RecordedImages:
    """A `runtime.base.Images` on top of another one, which adds the events."""

    def __init__(self, images: Images, events: EventLog) -> None:
        self._images = images
        self._events = events

    def all(self) -> list[Image]:
        return self._images.all()

    def find(self, reference: str) -> Image:
        return self._images.find(reference)

    async def layer_sizes(self) -> dict[str, int]:
        return await self._images.layer_sizes()

    async def log_in(self, server: str, auth: RegistryAuth) -> str:
        return await self._images.log_in(server, auth)

    async def distribution(self, reference: str, auth: RegistryAuth | None = None) -> Distribution:
        return await self._images.distribution(reference, auth)

    async def pull(self, reference: str, auth: RegistryAuth | None = None) -> AsyncIterator[str]:
        name, tag, digest = references.parse(reference)
        lines = self._images.pull(reference, auth)
        try:
            async for line in lines:
                yield line
        finally:  # a caller that stops reading stops the pull
            if isinstance(lines, AsyncGenerator):
                await lines.aclose()
        asked = name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
        self.record("pull", asked, name, self.found(reference))

    async def load(self, archive: AsyncIterator[bytes]) -> list[str]:
        loaded = await self._images.load(archive)
        for image in {
            image.id: image for image in map(self.found, loaded) if image is not None
        }.values():
            self.record("load", image.id, image.id, image)
        return loaded

    async def tag(self, reference: str, new: str) -> None:
        await self._images.tag(reference, new)
        image = self._images.find(new)
        name, tag, _ = references.parse(new)
        self.record("tag", image.id, f"{name}:{tag}", image)

    async def remove(self, reference: str, force: bool = False) -> list[tuple[str, str]]:
        image = self._images.find(reference)
        done = await self._images.remove(reference, force)
        for what, _ in done:
            if what == UNTAGGED:
                self.record("untag", image.id, image.id, image)
        if (DELETED, image.id) in done:
            self.record("delete", image.id, image.id, image)
        return done

    def found(self, reference: str) -> Image | None:
        """None if there is no such image."""
        try:
            return self._images.find(reference)
        except NotFound:  # removed meanwhile
            return None

    def record(self, action: str, id: str, name: str, image: Image | None) -> None:
        """Makes an event."""
        labels = image.config.labels if image is not None else {}
        self._events.record("image", action, id, {**labels, "name": name})
