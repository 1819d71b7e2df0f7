"""Files of containers: copied out (`docker cp`, `docker export`) and in, and what has changed of the
image's (`docker diff`)."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from weft.api.call import Call, answer
from weft.api.container_lookup import find_container
from weft.api.schema.inside import STAT_HEADER, change_json, path_stat_header
from weft.api.streams import streamed

CHUNK = 256 * 1024


async def stat(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    found = await call.node.inside.stat(container.id, call.query("path"))
    return web.Response(headers={STAT_HEADER: path_stat_header(found)})


async def read(call: Call) -> web.StreamResponse:
    container = find_container(call.node.containers, call.id)
    found, pieces = await call.node.inside.read(container.id, call.query("path"))
    call.node.tell("archive-path", container)
    return await _send(call, pieces, "application/x-tar", {STAT_HEADER: path_stat_header(found)})


async def write(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    await call.node.inside.write(
        container.id,
        call.query("path"),
        call.request.content.iter_chunked(CHUNK),
        keep_kinds=call.flag("noOverwriteDirNonDir"),
        owned=call.flag("copyUIDGID"),
    )
    call.node.tell("extract-to-dir", container)
    return web.Response(status=200)


async def export(call: Call) -> web.StreamResponse:
    container = find_container(call.node.containers, call.id)
    response = await _send(
        call, call.node.inside.export(container.id), "application/octet-stream", {}
    )
    call.node.tell("export", container)
    return response


async def _send(
    call: Call, pieces: AsyncGenerator[bytes, None], content_type: str, headers: dict[str, str]
) -> web.StreamResponse:
    """An error after the first piece breaks the connection off: the client sees that the archive is
    incomplete."""
    async with (
        aclosing(pieces),
        streamed(
            call.request, content_type, last_words=None, headers=headers, at_once=False
        ) as response,
    ):
        async for piece in pieces:
            await response.write(piece)
    return response.response


async def changes(call: Call) -> web.Response:
    container = find_container(call.node.containers, call.id)
    found = await call.node.inside.changes(container.id)
    return answer([change_json(change) for change in found] or None)
