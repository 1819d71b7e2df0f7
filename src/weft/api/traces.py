"""A packet's way over the hosts of the swarm. The Docker Engine API has no route for this; `weft
trace` uses this one. Nothing is changed; a marked packet is sent where `Probe` asks for it."""

from aiohttp import web

from weft.api.call import Call, answer
from weft.api.schema.trace import TraceWire, trace_json, wanted_from


async def trace(call: Call) -> web.Response:
    swarm = call.swarm
    wanted = wanted_from(await call.body(TraceWire))
    return answer(trace_json(await swarm.trace(wanted)))
