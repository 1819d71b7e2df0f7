"""The node itself: ping, version, info."""

import os
from collections import Counter

from aiohttp import web

from weft.api.call import Call, answer
from weft.api.schema.common import Json, now
from weft.api.schema.container import state_name
from weft.api.schema.system import info_json, membership_json, version_json
from weft.api.versions import MAX_VERSION, MIN_VERSION, info_answer
from weft.errors import Unavailable
from weft.model.membership import Membership


def swarm_header(membership: Membership) -> str:
    """The docker command hides or refuses its swarm commands by this header."""
    if membership.state != "active":
        return membership.state
    return "active/manager" if membership.is_manager else "active/worker"


async def ping(call: Call) -> web.Response:
    """`Builder-Version: 1` says that there is no BuildKit."""
    headers = {
        "Builder-Version": "1",
        "Docker-Experimental": "false",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
        "Swarm": swarm_header(call.node.membership),
    }
    return web.Response(text="" if call.request.method == "HEAD" else "OK", headers=headers)


async def version(call: Call) -> web.Response:
    return answer(version_json(call.node.info, MAX_VERSION, MIN_VERSION))


async def info(call: Call) -> web.Response:
    containers = Counter(state_name(each, False) for each in call.node.containers.containers())
    body = info_json(
        call.node.info,
        _swarm(call),
        dict(containers),
        len(call.node.images.all()),
        now(),
        len(os.listdir("/proc/self/fd")),
    )
    return answer(info_answer(body, call.api_version))


def _swarm(call: Call) -> Json:
    membership = call.node.membership
    try:
        swarm = call.swarm
        nodes = swarm.state.nodes.values()
        managers = [node.id for node in nodes if node.spec.role == "manager"]
        return membership_json(membership, swarm.cluster, len(nodes), managers)
    except Unavailable:
        return membership_json(membership, None, 0, [])
