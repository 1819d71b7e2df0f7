"""A look at all nodes at once, for `weft flows` and `weft top`. The Docker Engine API has no route for that. Nothing
is changed.

The answer is a sequence of `LookEvent`, each with its length before it, as of a capture
(`model/look.py`). It ends when all nodes have said all, or the client goes."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from aiohttp import web

from weft.api.call import Call
from weft.api.schema.look import FlowsWire, TopWire
from weft.api.streams import streamed
from weft.model import lookup
from weft.model.capture import LENGTH
from weft.model.flows import FlowsWanted
from weft.model.look import LookEvent, LookFailed
from weft.model.top import TopWanted

CONTENT_TYPE = "application/vnd.weft.look"


async def flows(call: Call) -> web.StreamResponse:
    swarm = call.swarm
    wire = await call.body(FlowsWire, empty=True)
    service = None
    if wire.service:
        service = lookup.find("service", wire.service, swarm.state.services).id
    return await _shown(call, swarm.flows(FlowsWanted(follow=wire.follow, service=service)))


async def top(call: Call) -> web.StreamResponse:
    swarm = call.swarm
    wire = await call.body(TopWire, empty=True)
    return await _shown(call, swarm.top(TopWanted(every=wire.every, once=wire.once)))


async def _shown(call: Call, look: AsyncGenerator[LookEvent, None]) -> web.StreamResponse:
    async with (
        aclosing(look) as events,
        streamed(call.request, CONTENT_TYPE, lambda text: _encoded(LookFailed(text))) as response,
    ):
        async for event in events:
            await response.write(_encoded(event))
    return response.response


def _encoded(event: LookEvent) -> bytes:
    data = msgspec.msgpack.encode(event)
    return LENGTH.pack(len(data)) + data
