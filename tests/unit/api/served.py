"""The API on a socket, a node in memory behind it, and a client that speaks plain HTTP."""

import io
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.fake_images import IMAGE
from tests.support.fake_node import FakeNode
from weft.api.server import ApiServer
from weft.model.ids import ServiceId
from weft.model.membership import InitRequest
from weft.model.service import ContainerSpec, ServiceSpec, TaskSpec

Get = Callable[..., Coroutine[Any, Any, tuple[int, Any, Any]]]


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[FakeNode, Get]]:
    """A node that leads a swarm, and a function that asks it: (status, JSON or text, headers)."""
    node = FakeNode()
    await node.init(InitRequest())
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


async def run_service(node: FakeNode, *command: str) -> str:
    """The id of a new service's container."""
    spec = ServiceSpec(
        name="web",
        task=TaskSpec(container=ContainerSpec(image=IMAGE, command=command, open_stdin=True)),
    )
    id: ServiceId = await node.swarm().create_service(spec)
    task = next(iter(node.swarm().state.tasks_of(id).values()))
    assert task.status.container is not None
    return task.status.container.id
