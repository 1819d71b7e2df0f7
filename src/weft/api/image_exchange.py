"""Images that leave this node: save, push; and how they were made: history."""

from contextlib import aclosing

from aiohttp import web

from weft.api import registry_auth
from weft.api.call import Call, answer
from weft.api.platforms import check_platform
from weft.api.schema.common import Json, encode
from weft.api.streams import error_line, streamed
from weft.errors import InvalidArgument
from weft.model.meta import SECOND
from weft.model.registry import PushStep

_MISSING = "<missing>"
"""Docker's word for the id of a step that is no image of its own."""


async def save_one(call: Call) -> web.StreamResponse:
    return await _save(call, [call.id])


async def save_several(call: Call) -> web.StreamResponse:
    names = [name for name in call.request.query.getall("names", []) if name]
    if not names:
        raise InvalidArgument("cannot save images: names has no image")
    return await _save(call, names)


async def _save(call: Call, names: list[str]) -> web.StreamResponse:
    """An error after the first piece breaks the connection off: the client sees that the archive is
    incomplete."""
    for platform in call.request.query.getall("platform", []) if call.query("platform") else ():
        for name in names:
            check_platform(call.node.images.find(name), name, platform)
    async with (
        aclosing(call.node.image_exchange.save(names)) as pieces,
        streamed(call.request, "application/x-tar", last_words=None, at_once=False) as response,
    ):
        async for piece in pieces:
            await response.write(piece)
    return response.response


async def history(call: Call) -> web.Response:
    image = call.node.images.find(call.id)
    if call.query("platform"):
        check_platform(image, call.id, call.query("platform"))
    steps = await call.node.image_exchange.history(image.id)
    lines: list[Json] = [
        {
            "Id": _MISSING,
            "Created": step.created // SECOND,
            "CreatedBy": step.created_by,
            "Tags": None,
            "Size": size,
            "Comment": step.comment,
        }
        for step, size in reversed(steps)
    ]
    if lines:
        lines[0] |= {"Id": image.id, "Tags": list(image.tags) or None}
    return answer(lines)


async def push(call: Call) -> web.StreamResponse:
    """Sends progress line by line; an error is a line as well."""
    auth = registry_auth.given(call.request)
    name, tag = call.id, call.query("tag")
    if call.query("platform"):
        image = f"{name}:{tag}" if tag else name
        check_platform(call.node.images.find(image), image, call.query("platform"))
    async with (
        aclosing(call.node.image_exchange.push(name, tag, auth)) as steps,
        streamed(call.request, "application/json", error_line, at_once=False) as response,
    ):
        async for step in steps:
            await response.write(_push_line(step))
    return response.response


def _push_line(step: PushStep) -> bytes:
    line: Json = {"status": step.text}
    if step.layer:
        line |= {"progressDetail": {}, "id": step.layer.removeprefix("sha256:")[:12]}
    said = encode(line)
    if step.pushed is not None:
        aux = {"Tag": step.pushed.tag, "Digest": step.pushed.digest, "Size": step.pushed.size}
        said += encode({"progressDetail": {}, "aux": aux})
    return said
