"""Answers that are a sequence of events of Weft's own (`model/event_stream.py`)."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from weft.api.streams import streamed
from weft.model.event_stream import encoded


async def told(
    request: web.Request,
    content_type: str,
    events: AsyncGenerator[Any, None],
    failed: Callable[[str], msgspec.Struct],
) -> web.StreamResponse:
    """Until the events end or the client goes. `failed`: the last event, from an error's text."""
    async with (
        aclosing(events) as given,
        streamed(request, content_type, lambda text: encoded(failed(text))) as response,
    ):
        async for event in given:
            await response.write(encoded(event))
    return response.response
