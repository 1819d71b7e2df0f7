"""The API of a whole node on a UNIX socket, and the stock docker command to ask it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.api_daemon import DEADLINE, ApiDaemon
from weft.api.server import ApiServer


class Daemon(ApiDaemon):
    def __init__(
        self,
        path: Path,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        hostname: str = "node1",
    ) -> None:
        self.path = path
        super().__init__(new_loop, hostname)

    async def listen(self, server: ApiServer) -> None:
        await server.start(self.path)

    @property
    def client(self) -> list[str]:
        return ["docker", "-H", f"unix://{self.path}"]


def eventually(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE
    while not (result := condition()):
        assert time.monotonic() < deadline, result
        time.sleep(0.05)
    return result
