"""Pulls images: however many tasks wait for an image, it is pulled once."""

import asyncio
import logging

from weft.runtime.base import Images

log = logging.getLogger(__name__)


class Pulls:
    def __init__(self, images: Images) -> None:
        self._images = images
        self._running: dict[str, asyncio.Task[None]] = {}

    async def pull(self, reference: str) -> None:
        """Returns when the image is here; joins a pull that is under way. Cancelling one caller
        leaves the pull running for the others. Raises `NotFound` or `OperationFailed`."""
        task = self._running.get(reference)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._pull(reference))
            self._running[reference] = task
            task.add_done_callback(lambda done: self._done(reference, done))
        await asyncio.shield(task)

    def close(self) -> None:
        for task in tuple(self._running.values()):
            task.cancel()

    async def _pull(self, reference: str) -> None:
        log.info("image.pull reference=%s", reference)
        async for line in self._images.pull(reference):
            log.debug("image.progress reference=%s line=%s", reference, line)

    def _done(self, reference: str, task: asyncio.Task[None]) -> None:
        self._running.pop(reference, None)
        if not task.cancelled():
            # Callers get the error through the shield; without callers it must not be reported as
            # never retrieved.
            task.exception()
