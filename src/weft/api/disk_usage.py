"""`docker system df`: the disk that images, containers and volumes take."""

from collections import Counter

from aiohttp import web

from weft.api.call import Call, answer
from weft.api.containers import context_of
from weft.api.schema.common import Json, now
from weft.api.schema.container import container_summary_json
from weft.api.schema.image import image_summary_json, shared_sizes
from weft.api.schema.volume import volume_json
from weft.api.versions import image_summary_answer
from weft.errors import InvalidArgument, NotFound, OperationFailed, clip

KINDS = ("container", "image", "volume", "build-cache")
BUILDER_SIZE = (1, 42)
"""Before this version the answer has the size of the builder's cache apart."""


async def show(call: Call) -> web.Response:
    """`type` chooses what is measured; what is not is null."""
    wanted = call.request.query.getall("type", []) if call.api_version >= BUILDER_SIZE else []
    for kind in wanted:
        if kind not in KINDS:
            raise InvalidArgument(f"unknown object type: {clip(kind)}")
    kinds = wanted or KINDS
    body: Json = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None}
    body["BuildCache"] = [] if "build-cache" in kinds else None
    if "image" in kinds:
        body |= await _images(call)
    if "container" in kinds:
        body["Containers"] = await _containers(call)
    if "volume" in kinds:
        body["Volumes"] = await _volumes(call)
    return answer(body if call.api_version >= BUILDER_SIZE else body | {"BuilderSize": 0})


async def _images(call: Call) -> Json:
    images = call.node.images
    sizes = await images.layer_sizes()
    shared = shared_sizes(images, sizes)
    used = Counter(container.image for container in call.node.containers.containers())
    rows = [image_summary_json(image, used[image.id], shared[image.id]) for image in images.all()]
    # The docker command counts the images' containers here, so every version has the number.
    shown = [
        image_summary_answer(row, call.api_version) | {"Containers": row["Containers"]}
        for row in rows
    ]
    return {"LayersSize": sum(sizes.values()), "Images": shown}


async def _containers(call: Call) -> list[Json]:
    rows, moment = [], now()
    for container in call.node.containers.containers():
        try:
            sizes = await call.node.inside.sizes(container.id)
        except NotFound:  # removed meanwhile
            continue
        rows.append(container_summary_json(container, context_of(call, container), moment, sizes))
    return rows


async def _volumes(call: Call) -> list[Json]:
    """Without the volumes that have options, as in Docker: their files are somewhere else."""
    known, rows = call.node.volumes, []
    for volume in known.all():
        if volume.options:
            continue
        try:
            size = await known.size(volume.name)
        except NotFound:
            continue
        except OperationFailed:
            size = -1  # as Docker says that it does not know
        usage = {"Size": size, "RefCount": len(known.users(volume.name))}
        rows.append(volume_json(volume, known.path(volume.name)) | {"UsageData": usage})
    return rows
