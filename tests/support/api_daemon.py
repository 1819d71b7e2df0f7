"""The API in front of a whole node (`whole_node.py`), and the stock docker command to ask it: for
tests of what the two say to each other."""

import asyncio
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.support import transports
from tests.support.fake_images import IMAGE
from tests.support.whole_node import WholeNode
from weft.api.server import ApiServer
from weft.model.state import ClusterState
from weft.model.task import Task

DEADLINE = 60
"""Seconds for anything that the command is asked to do."""


class ApiDaemon:
    """A server on an event loop of its own, in a thread."""

    real_images = False
    """Whether the node keeps images on its disk, as a host does."""

    def __init__(
        self, new_loop: Callable[[], asyncio.AbstractEventLoop], hostname: str = "node1"
    ) -> None:
        self._hostname = hostname
        self._runner = asyncio.Runner(loop_factory=new_loop)
        self._loop = self._runner.get_loop()
        self._disk = tempfile.TemporaryDirectory()
        self._stop, self._again = asyncio.Event(), False
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
        while True:
            self.node = WholeNode(
                Path(self._disk.name), self._hostname, real_images=self.real_images
            )
            await self.node.resume()
            self._again = False
            server = ApiServer(self.node)
            await self.listen(server)
            self._ready.set()
            await self._stop.wait()
            await server.close()
            await self.node.close()
            await transports.all_ended()
            if not self._again:
                return
            self._stop.clear()

    def restart(self) -> None:
        """Ends the daemon and starts another one with the same disk. Containers are lost."""
        self._ready.clear()
        self._again = True
        self._loop.call_soon_threadsafe(self._stop.set)
        assert self._ready.wait(DEADLINE)

    @property
    def swarm_files(self) -> Path:
        return Path(self._disk.name) / "swarm"

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """On the server's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE)

    def close(self) -> None:
        """Ends the daemon and its containers. May be called again."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE)
        self._runner.close()
        self._disk.cleanup()

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

    def until(self, condition: Callable[[ClusterState], bool]) -> None:
        """Returns when it is true of the swarm's state."""
        self.call(self.node.until(condition))

    def settled(self, service: str = "web") -> None:
        """Returns when the service's tasks run as it wants, and others have ended."""
        self.call(self.node.until_running(service))

    def cleared(self) -> None:
        """Returns when no service has a task, and no container of a task is left."""
        self.until(lambda state: not state.tasks)

    def container(self, *create: str, script: str = "", name: str = "web") -> str:
        """The id of the container of a new service's first task, which has started."""
        command = ["sh", "-c", script] if script else []
        self.ok(
            *("service", "create", "-d", "--no-resolve-image", "--name", name),
            *(*create, IMAGE, *command),
        )
        tasks: list[Task] = self.call(self.node.until_started(name))
        first = min(tasks, key=lambda task: task.slot).status.container
        assert first is not None
        return first.id
