"""A look at all nodes at once, for `weft flows` and `weft top`. The Docker Engine API has no route
for that. Nothing is changed.

The answer is a sequence of `LookEvent` (`model/event_stream.py`). It ends when all nodes have said
all, or the client goes."""

from aiohttp import web

from weft.api.call import Call
from weft.api.event_stream import told
from weft.api.schema.look import FlowsWire, TopWire
from weft.model import lookup
from weft.model.flows import FlowsWanted
from weft.model.look import LookFailed
from weft.model.top import TopWanted

CONTENT_TYPE = "application/vnd.weft.look"


async def flows(call: Call) -> web.StreamResponse:
    swarm = call.swarm
    wire = await call.body(FlowsWire, empty=True)
    service = None
    if wire.service:
        service = lookup.find("service", wire.service, swarm.state.services).id
    look = swarm.flows(FlowsWanted(follow=wire.follow, service=service))
    return await told(call.request, CONTENT_TYPE, look, LookFailed)


async def top(call: Call) -> web.StreamResponse:
    swarm = call.swarm
    wire = await call.body(TopWire, empty=True)
    look = swarm.top(TopWanted(every=wire.every, once=wire.once))
    return await told(call.request, CONTENT_TYPE, look, LookFailed)
