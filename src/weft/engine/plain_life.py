"""What this daemon, and no later one, knows and does about one plain container."""

import asyncio

from weft.model.container import Container
from weft.model.meta import SECOND, Nanoseconds


class Life:
    """What this daemon knows and does about one plain container."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        """Held to start the container, to put away what it had when it ended, and to change its
        record."""
        self.follower: asyncio.Task[None] | None = None
        """Waits for the end of the running container, and for its restart."""
        self.released = asyncio.Event()
        """Whether the last end is dealt with: the container's network is free."""
        self.released.set()
        self.no_restart = asyncio.Event()
        """Set when a user wants the container to stay ended."""
        self.is_restarting = False
        """Whether the end is dealt with, and the container waits to be started again."""
        self.pause: Nanoseconds = 0
        """Before the last restart."""
        self.is_kept = False
        """Whether its end is a user's restart: it is not removed."""
        self.next_end: asyncio.Future[Container] = asyncio.get_running_loop().create_future()
        self.removal: asyncio.Future[Container] = asyncio.get_running_loop().create_future()
        """Both have the container as it was at last."""

    async def called_off_in_pause(self) -> bool:
        """Whether a user wants the container to stay ended before the pause is over."""
        try:
            async with asyncio.timeout(self.pause / SECOND):
                await self.no_restart.wait()
        except TimeoutError:
            return False
        return True

    def tell_end(self, container: Container) -> None:
        was, self.next_end = self.next_end, asyncio.get_running_loop().create_future()
        was.set_result(container)

    def tell_removal(self, container: Container) -> None:
        self.tell_end(container)
        self.removal.set_result(container)
