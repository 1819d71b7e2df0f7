"""The API on a socket, a whole node behind it, and a client that speaks plain HTTP."""

import io
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.fake_images import IMAGE
from tests.support.whole_node import WholeNode
from weft.api.server import ApiServer
from weft.model.membership import InitRequest
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec

Get = Callable[..., Coroutine[Any, Any, tuple[int, Any, Any]]]


@asynccontextmanager
async def serving(path: Path, **host: Any) -> AsyncIterator[tuple[WholeNode, Get]]:
    """A node that leads a swarm, and a function that asks it: (status, JSON or text, headers).
    `host`: see `WholeNode`."""
    disk = tempfile.TemporaryDirectory()
    node = WholeNode(Path(disk.name), **host)
    await node.resume()
    await node.init(InitRequest())
    await node.until_ready()
    server = ApiServer(node)
    await server.start(path)
    session = aiohttp.ClientSession("http://docker", connector=aiohttp.UnixConnector(str(path)))

    async def ask(
        method: str, url: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any, Any]:
        async with session.request(
            method,
            url,
            data=io.BytesIO(body) if body else body,
            headers={"Content-Type": "application/json"} | headers,
        ) as response:
            text = await response.text()
            return (
                response.status,
                json.loads(text) if response.content_type == "application/json" else text,
                response.headers,
            )

    try:
        yield node, ask
    finally:
        await session.close()
        await server.close()
        await node.close()
        disk.cleanup()


async def run_service(node: WholeNode, *command: str) -> str:
    """The id of a new service's container."""
    spec = ServiceSpec(
        name="web",
        task=TaskSpec(container=ContainerSpec(image=IMAGE, command=command, open_stdin=True)),
    )
    await node.manager.swarm.create_service(spec)
    [task] = await node.until_started("web")
    assert task.status.container is not None
    return task.status.container.id
