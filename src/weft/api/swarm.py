"""The swarm: create, join, leave, inspect and update it."""

from aiohttp import web

from weft.api.call import Call, answer
from weft.api.schema.swarm import (
    InitWire,
    JoinWire,
    SpecWire,
    cluster_json,
    init_from,
    join_from,
    root_from,
    spec_from,
)
from weft.errors import Conflict, Unsupported


async def inspect(call: Call) -> web.Response:
    return answer(cluster_json(call.swarm.cluster))


async def init(call: Call) -> web.Response:
    return answer(await call.node.init(init_from(await call.body(InitWire))))


async def join(call: Call) -> web.Response:
    await call.node.join(join_from(await call.body(JoinWire)))
    return web.Response(status=200)


async def leave(call: Call) -> web.Response:
    await call.node.leave(call.flag("force"))
    return web.Response(status=200)


async def update(call: Call) -> web.Response:
    swarm = call.swarm
    version = call.number("version")
    wire = await call.body(SpecWire)
    if call.flag("rotateManagerUnlockKey"):
        raise Unsupported(
            "rotating the unlock key (rotateManagerUnlockKey) is not supported by Weft"
        )
    spec = spec_from(wire, swarm.cluster.spec)
    root = root_from(wire.ca)
    await swarm.update_cluster(
        version, spec, call.flag("rotateWorkerToken"), call.flag("rotateManagerToken"), root
    )
    return web.Response(status=200)


async def unlock_key(call: Call) -> web.Response:
    """Weft has no unlock key, and the client says so."""
    call.swarm  # noqa: B018  refuses on a worker
    return answer({"UnlockKey": ""})


async def unlock(call: Call) -> web.Response:
    raise Conflict("swarm is not locked")
