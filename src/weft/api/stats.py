"""`docker stats`: how much of the host's resources a container uses, once or every second."""

import asyncio

from aiohttp import web

from weft.api.call import Call, answer
from weft.api.container_lookup import find_container
from weft.api.schema.common import encode
from weft.api.schema.inside import usage_json
from weft.api.streams import streamed
from weft.errors import InvalidArgument, NotFound
from weft.model.ids import ContainerId
from weft.model.inside import Usage

INTERVAL = 1.0
"""Seconds between two samples."""


async def stats(call: Call) -> web.StreamResponse:
    container = find_container(call.node.containers, call.id)
    is_stream = call.flag("stream") if call.query("stream") else True
    if is_stream and call.flag("one-shot"):
        raise InvalidArgument("cannot have stream=true and one-shot=true")
    if is_stream:
        return await _stream(call, container.id)
    before = None
    if not call.flag("one-shot"):
        before = await call.node.inside.usage(container.id)
        if before is not None:
            await asyncio.sleep(INTERVAL)
    usage = await call.node.inside.usage(container.id)
    return answer(usage_json(container, usage, before if usage else None))


async def _stream(call: Call, id: ContainerId) -> web.StreamResponse:
    """Until the client goes or the container is removed; it may end and begin again meanwhile."""
    before: Usage | None = None
    async with streamed(call.request, "application/json", last_words=None) as response:
        while True:
            try:
                container = call.node.containers.get(id)
                usage = await call.node.inside.usage(id)
            except NotFound:
                break
            await response.write(encode(usage_json(container, usage, before if usage else None)))
            before = usage
            await asyncio.sleep(INTERVAL)
    return response.response
