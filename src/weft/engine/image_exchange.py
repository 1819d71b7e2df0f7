"""Images that leave this host, and new ones, with events: save, push, import, create."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from weft.engine.images import RecordedImages
from weft.model.container import HistoryStep, Image, NewImage
from weft.model.references import parse
from weft.model.registry import PushStep, RegistryAuth
from weft.runtime.base import ImageExchange


class RecordedExchange:
    """A `runtime.base.ImageExchange` on top of another one, which adds the events."""

    def __init__(self, exchange: ImageExchange, images: RecordedImages) -> None:
        self._exchange = exchange
        self._images = images

    async def history(self, reference: str) -> list[tuple[HistoryStep, int]]:
        return await self._exchange.history(reference)

    async def save(self, references: Sequence[str]) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._exchange.save(references)) as pieces:
            async for piece in pieces:
                yield piece
        saved = (self._images.found(reference) for reference in references)
        for image in {image.id: image for image in saved if image is not None}.values():
            self._images.record("save", image.id, image.id, image)

    async def push(
        self, name: str, tag: str, auth: RegistryAuth | None
    ) -> AsyncGenerator[PushStep, None]:
        async with aclosing(self._exchange.push(name, tag, auth)) as steps:
            async for step in steps:
                if step.pushed is not None:
                    reference = f"{parse(name)[0]}:{step.pushed.tag}"
                    image = self._images.found(reference)
                    self._images.record("push", reference, parse(name)[0], image)
                yield step

    async def make(self, new: NewImage, layer: AsyncIterator[bytes]) -> Image:
        image = await self._exchange.make(new, layer)
        action = "import" if new.base is None else "create"
        self._images.record(action, image.id, new.name or image.id, image)
        return image
