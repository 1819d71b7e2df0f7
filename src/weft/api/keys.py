"""The keys of encrypted networks. The Docker Engine API has no routes for keys; `weft keys` uses
these. No route shows the secrets."""

from aiohttp import web

from weft.api.call import Call, answer
from weft.api.schema.keys import KeysWire, keys_json, spec_from


async def inspect(call: Call) -> web.Response:
    return answer(keys_json(call.swarm.cluster))


async def rotate(call: Call) -> web.Response:
    await call.swarm.rotate_keys()
    return answer(keys_json(call.swarm.cluster))


async def update(call: Call) -> web.Response:
    cluster = call.swarm.cluster
    await call.swarm.update_cluster(
        cluster.meta.version, spec_from(await call.body(KeysWire), cluster.spec), False, False
    )
    return answer(keys_json(call.swarm.cluster))
