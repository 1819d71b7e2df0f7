"""The API in front of a node in memory, and the stock docker command to ask it: for tests of what
the two say to each other."""

import asyncio
import subprocess
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from tests.support.fake_images import IMAGE
from tests.support.fake_node import FakeNode
from weft.api.server import ApiServer

DEADLINE = 60
"""Seconds for anything that the command is asked to do."""


class ApiDaemon:
    """A server on an event loop of its own, in a thread."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self._runner = asyncio.Runner(loop_factory=new_loop)
        self._loop = self._runner.get_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._runner.run, args=(self._serve(),))
        self._thread.start()
        assert self._ready.wait(DEADLINE)

    async def listen(self, server: ApiServer) -> None:
        """For a subclass: begins to serve `node`."""
        raise NotImplementedError

    @property
    def client(self) -> list[str]:
        """For a subclass: the docker command with what it needs to reach the server."""
        raise NotImplementedError

    async def _serve(self) -> None:
        self.node = FakeNode()
        server = ApiServer(self.node)
        await self.listen(server)
        self._ready.set()
        await self._stop.wait()
        await server.close()
        await self.node.close()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """On the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE)
        self._runner.close()

    # --- the command

    def command(self, *argv: str) -> list[str]:
        return [*self.client, *argv]

    def run(self, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self.command(*argv), input=stdin, capture_output=True, timeout=DEADLINE, check=False
        )

    def ok(self, *argv: str, stdin: bytes = b"") -> str:
        done = self.run(*argv, stdin=stdin)
        assert done.returncode == 0, f"docker {' '.join(argv)}: {done.stderr.decode()}"
        return done.stdout.decode()

    def refused(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.returncode != 0, f"docker {' '.join(argv)} was accepted: {done.stdout.decode()}"
        return done.stderr.decode()

    def container(self, *create: str, script: str = "") -> str:
        """The id of a new service's container."""
        command = ["sh", "-c", script] if script else []
        self.ok(
            "service",
            "create",
            "-d",
            "--no-resolve-image",
            "--name",
            "web",
            *create,
            IMAGE,
            *command,
        )
        return self.ok(
            "ps", "-aq", "--no-trunc", "--filter", "label=com.docker.swarm.service.name=web"
        ).split()[0]
