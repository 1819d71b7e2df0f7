"""Pulls images: however many tasks wait for an image, it is pulled once."""

import asyncio
import logging

from weft.model.registry import RegistryAuth
from weft.runtime.base import Images

log = logging.getLogger(__name__)

_Asked = tuple[str, RegistryAuth | None]
"""An image's reference, and the credentials for its registry."""


class Pulls:
    def __init__(self, images: Images) -> None:
        self._images = images
        self._running: dict[_Asked, asyncio.Task[None]] = {}

    async def pull(self, reference: str, auth: RegistryAuth | None = None) -> None:
        """Returns when the image is here; joins a pull that is under way with the same credentials.
        Cancelling one caller leaves the pull running for the others. Raises `NotFound` or
        `OperationFailed`."""
        asked = (reference, auth)
        task = self._running.get(asked)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._pull(reference, auth))
            self._running[asked] = task
            task.add_done_callback(lambda done: self._done(asked, done))
        await asyncio.shield(task)

    def close(self) -> None:
        for task in tuple(self._running.values()):
            task.cancel()

    async def _pull(self, reference: str, auth: RegistryAuth | None) -> None:
        log.info("image.pull reference=%s", reference)
        async for line in self._images.pull(reference, auth):
            log.debug("image.progress reference=%s line=%s", reference, line)

    def _done(self, asked: _Asked, task: asyncio.Task[None]) -> None:
        self._running.pop(asked, None)
        if not task.cancelled():
            # Callers get the error through the shield; without callers it must not be reported as
            # never retrieved.
            task.exception()
