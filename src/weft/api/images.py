"""Images of this node: list, inspect, pull, load, tag, remove."""

from collections.abc import AsyncIterator

from aiohttp import web

from weft.api import filters
from weft.api.call import Call, answer, nothing
from weft.api.filters import boolean, label_matches, reference_test
from weft.api.listing import answer_list
from weft.api.registry_auth import refuse_credentials
from weft.api.schema.common import encode
from weft.api.schema.image import image_json, image_summary_json
from weft.api.streams import streamed
from weft.errors import InvalidArgument, NotFound, Unsupported
from weft.model import references
from weft.model.container import Image
from weft.runtime.base import Images

FILTERS = ("reference", "dangling", "label", "before", "since")


async def listing(call: Call) -> web.Response:
    test = filters.compile_test(call.filters(FILTERS), _makers(call.node.images))
    newest_first = sorted(call.node.images.all(), key=lambda image: image.created, reverse=True)
    return await answer_list(newest_first, test, image_summary_json)


def _makers(images: Images) -> filters.Makers[Image]:
    def dangling(value: str) -> filters.Test[Image]:
        expected = boolean(value, "dangling")
        return lambda image: (not image.tags) == expected

    def before(value: str) -> filters.Test[Image]:
        moment = images.find(value).created
        return lambda image: image.created < moment

    def since(value: str) -> filters.Test[Image]:
        moment = images.find(value).created
        return lambda image: image.created > moment

    return {
        "reference": _of_reference,
        "dangling": dangling,
        "label": lambda value: lambda image: label_matches(image.config.labels, value),
        "before": before,
        "since": since,
    }


def _of_reference(pattern: str) -> filters.Test[Image]:
    """By name, by name and tag; `*` stands for anything but a slash."""
    matches = reference_test(pattern)

    def test(image: Image) -> bool:
        names = {*image.tags, *(tag.rpartition(":")[0] for tag in image.tags), *image.digests}
        return any(matches(name) for name in names)

    return test


async def inspect(call: Call) -> web.Response:
    return answer(image_json(call.node.images.find(call.id)))


async def tag(call: Call) -> web.Response:
    name = call.query("repo")
    if not name:
        raise InvalidArgument("invalid repo: it is empty")
    new = f"{name}:{call.query('tag')}" if call.query("tag") else name
    if references.parse(new)[2]:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    await call.node.images.tag(call.id, new)
    return nothing(201)


async def remove(call: Call) -> web.Response:
    done = await call.node.images.remove(call.id, call.flag("force"))
    return answer([{what: name} for what, name in done])


async def pull(call: Call) -> web.StreamResponse:
    """Progress line by line; an error after the first line is a line as well."""
    refuse_credentials(call.request)
    if call.query("fromSrc"):
        raise Unsupported("importing an image from a file system archive (fromSrc) is not supported by Weft: use load")
    if call.query("platform"):
        raise Unsupported("choosing a platform (platform) is not supported by Weft")
    name, wanted = call.query("fromImage"), call.query("tag")
    if not wanted and not _says_version(name):
        raise Unsupported(f"pulling all tags of {name} is not supported by Weft: name a tag")
    reference = f"{name}{'@' if wanted.startswith('sha256:') else ':'}{wanted}" if wanted else name
    references.parse(reference)
    return await _progress(call, call.node.images.pull(reference))


def _says_version(name: str) -> bool:
    return "@" in name or ":" in name.rpartition("/")[2]


async def _progress(call: Call, lines: AsyncIterator[str]) -> web.StreamResponse:
    first = await anext(lines, None)
    async with streamed(call.request, "application/json", _fetching_failed) as response:
        if first is not None:
            await response.write(encode({"status": first}))
        async for line in lines:
            await response.write(encode({"status": line}))
    return response


def _fetching_failed(text: str) -> bytes:
    return encode({"errorDetail": {"message": text}, "error": text})


async def load(call: Call) -> web.Response:
    """The archive goes to the store as it comes; it is never whole in memory."""
    if call.query("platform"):
        raise Unsupported("choosing a platform (platform) is not supported by Weft")
    loaded = await call.node.images.load(call.request.content.iter_chunked(256 * 1024))
    lines = [encode({"stream": f"Loaded image{' ID' if name.startswith('sha256:') else ''}: {name}\n"}) for name in loaded]
    return web.Response(body=b"".join(lines), content_type="application/json")


async def distribution(call: Call) -> web.Response:
    """The client then leaves the image's name as it is, and says so."""
    raise NotFound(f"no digest of {call.id}: Weft asks no registry; each node resolves the name itself")
