"""Volumes of this node: list, inspect, create, remove, prune. Cluster volumes (CSI) do not
exist."""

from collections.abc import Sequence

from aiohttp import web

from weft.api import filters
from weft.api.backend import Volumes
from weft.api.call import Call, answer, nothing
from weft.api.filters import boolean, label_matches, name_test
from weft.api.pruning import prunable
from weft.api.schema.common import now
from weft.api.schema.volume import VolumeWire, volume_json
from weft.errors import InvalidArgument, NotFound, Unavailable, clip
from weft.model.numbers import decimal
from weft.model.volume import ANONYMOUS_LABEL, Volume

FILTERS = ("dangling", "name", "driver", "label")
PRUNE_FILTERS = ("label", "label!", "all")
ONLY_ANONYMOUS = (1, 42)
"""Since this version `prune` removes only anonymous volumes, unless the request says otherwise."""
NO_MANAGER = "volume update only valid for cluster volumes, but swarm is unavailable"


async def listing(call: Call) -> web.Response:
    known = call.node.volumes
    found = filters.select(known.all(), call.filters(FILTERS), _makers(known))
    rows = [volume_json(volume, known.path(volume.name)) for volume in found]
    return answer({"Volumes": rows, "Warnings": None})


def _makers(known: Volumes) -> filters.Makers[Volume]:
    def dangling(value: str) -> filters.Test[Volume]:
        expected, used = boolean(value, "dangling"), known.used()
        return lambda volume: (volume.name not in used) == expected

    def of_name(value: str) -> filters.Test[Volume]:
        matches = name_test(value)
        return lambda volume: matches(volume.name)

    return {
        "dangling": dangling,
        "name": of_name,
        "driver": lambda value: lambda volume: volume.driver == value,
        "label": lambda value: lambda volume: label_matches(volume.labels, value),
    }


async def inspect(call: Call) -> web.Response:
    volume = call.node.volumes.get(call.id)
    return answer(volume_json(volume, call.node.volumes.path(volume.name)))


async def create(call: Call) -> web.Response:
    wire = await call.body(VolumeWire)
    volume = await call.node.volumes.create(wire.name, wire.driver, wire.driver_opts, wire.labels)
    return answer(volume_json(volume, call.node.volumes.path(volume.name)), 201)


async def remove(call: Call) -> web.Response:
    await call.node.volumes.remove(call.id, call.flag("force"))
    return nothing()


async def update(call: Call) -> web.Response:
    """Only cluster volumes can be updated, and there are none."""
    try:
        call.swarm  # noqa: B018
    except Unavailable as error:
        raise Unavailable(NO_MANAGER) from error
    version = call.query("version")
    if decimal(version, 2**64 - 1) is None:
        raise InvalidArgument(f"invalid swarm object version '{clip(version)}': invalid syntax")
    raise NotFound(f"volume {call.id} not found")


async def prune(call: Call) -> web.Response:
    wanted = call.filters(PRUNE_FILTERS)
    is_wanted = prunable(wanted, now())
    is_for_all = _is_for_all(wanted.get("all", ()), call)
    removed, reclaimed = await call.node.volumes.prune(
        lambda volume: (
            is_wanted(volume.labels, volume.created_at)
            and (is_for_all or label_matches(volume.labels, ANONYMOUS_LABEL))
        )
    )
    return answer({"VolumesDeleted": removed, "SpaceReclaimed": reclaimed})


def _is_for_all(values: Sequence[str], call: Call) -> bool:
    """Whether volumes with a name are pruned as well."""
    if len(values) > 1:
        raise InvalidArgument(
            f"invalid filter 'all={clip(str(list(values)))}': only one value is expected"
        )
    if values:
        return boolean(values[0], "all")
    return call.api_version < ONLY_ANONYMOUS
