"""The packets of a network, service or task, from all its nodes, for `weft capture`.

The answer is a sequence of `CaptureEvent` (`model/event_stream.py`). It ends when what is watched is
removed, or the client goes."""

from contextlib import suppress

import msgspec
from aiohttp import web

from weft.api.call import Call
from weft.api.event_stream import told
from weft.api.schema.capture import CaptureWire
from weft.errors import InvalidArgument, NotFound
from weft.model import lookup
from weft.model.capture import CaptureFailed, CaptureWanted
from weft.model.state import ClusterState
from weft.model.task import TaskState

CONTENT_TYPE = "application/vnd.weft.capture"


async def capture(call: Call) -> web.StreamResponse:
    wire = await call.body(CaptureWire)
    wanted = msgspec.structs.replace(
        find(call.swarm.state, wire.name), wire=wire.underlay, filter=wire.filter
    )
    return await told(call.request, CONTENT_TYPE, call.swarm.capture(wanted), CaptureFailed)


def find(state: ClusterState, reference: str) -> CaptureWanted:
    """What a name or id stands for: a network, service or task. `network:web` is the network, where
    a service has the name too. Raises `NotFound`, or `InvalidArgument` if it is ambiguous."""
    kind, colon, rest = reference.partition(":")
    if colon and kind in KINDS:
        return KINDS[kind](state, rest)
    found = dict[str, CaptureWanted]()
    for kind, one in KINDS.items():
        with suppress(NotFound):
            found[kind] = one(state, reference)
    if not found:
        raise NotFound(f"cannot capture {reference}: no network, service or task has that name")
    if len(found) > 1:
        choice = " or ".join(f"{kind}:{reference}" for kind in found)
        raise InvalidArgument(f"cannot capture {reference}: it is ambiguous; write {choice}")
    return found.popitem()[1]


def _network(state: ClusterState, reference: str) -> CaptureWanted:
    return CaptureWanted(network=lookup.find("network", reference, state.networks).id)


def _service(state: ClusterState, reference: str) -> CaptureWanted:
    return CaptureWanted(service=lookup.find("service", reference, state.services).id)


def _task(state: ClusterState, reference: str) -> CaptureWanted:
    """`webapp.1` is the task that runs in that place."""
    running = (task for task in state.tasks.values() if task.state <= TaskState.RUNNING)
    placed = [task.id for task in running if task.place == reference]
    if len(placed) == 1:
        return CaptureWanted(task=placed[0])
    return CaptureWanted(task=lookup.find("task", reference, state.tasks).id)


KINDS = {"network": _network, "service": _service, "task": _task}
