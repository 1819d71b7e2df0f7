"""The swarm: create, join, leave, inspect and update it."""

from aiohttp import web

from weft.api.call import Call, answer
from weft.api.schema.swarm import (
    InitWire,
    JoinWire,
    SpecWire,
    UnlockWire,
    cluster_json,
    init_from,
    join_from,
    root_from,
    spec_from,
)


async def inspect(call: Call) -> web.Response:
    swarm = call.swarm
    return answer(cluster_json(swarm.cluster, await swarm.join_tokens()))


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
    spec = spec_from(wire, swarm.cluster.spec)
    root = root_from(wire.ca)
    await swarm.update_cluster(
        version,
        spec,
        call.flag("rotateWorkerToken"),
        call.flag("rotateManagerToken"),
        root,
        call.flag("rotateManagerUnlockKey"),
    )
    return web.Response(status=200)


async def unlock_key(call: Call) -> web.Response:
    return answer({"UnlockKey": await call.swarm.unlock_key()})


async def unlock(call: Call) -> web.Response:
    wire = await call.body(UnlockWire)
    await call.node.unlock(wire.unlock_key)
    return web.Response(status=200)
