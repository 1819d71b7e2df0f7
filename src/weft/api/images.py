"""Images of this node: list, inspect, pull, load, import, tag, remove."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

import msgspec
from aiohttp import web

from weft.api import filters, registry_auth
from weft.api.call import Call, answer, nothing
from weft.api.filters import boolean, label_matches, reference_test
from weft.api.listing import answer_list
from weft.api.platforms import check_native, check_platform
from weft.api.pruning import prunable
from weft.api.schema.common import encode, now, parse_until
from weft.api.schema.image import distribution_json, image_json, image_summary_json, shared_sizes
from weft.api.streams import error_line, streamed
from weft.api.versions import image_answer, image_summary_answer
from weft.errors import (
    Conflict,
    InvalidArgument,
    NotFound,
    OperationFailed,
    Unsupported,
    WeftError,
    clip,
)
from weft.model import references
from weft.model.container import Image, ImageConfig, NewImage
from weft.model.image_changes import changed
from weft.model.meta import Nanoseconds
from weft.runtime.base import Images

FILTERS = ("reference", "dangling", "label", "before", "since", "until")

DELETED = "Deleted"
"""What `Images.remove` says of an image and of its layers."""
REGISTRY_PATIENCE = 10.0
"""Seconds that a registry has to say what it has under a name. The docker command asks before it
creates a service, and goes on without an answer."""


async def listing(call: Call) -> web.Response:
    wanted = call.filters(FILTERS)
    test = filters.compile_test(wanted, _makers(call.node.images))
    shown = _name_tests(wanted.get("reference", ()))
    newest_first = sorted(call.node.images.all(), key=lambda image: image.created, reverse=True)
    used = Counter(container.image for container in call.node.containers.containers())
    version = call.api_version
    shared: dict[str, int] = {}
    if call.flag("shared-size"):
        shared = shared_sizes(call.node.images, await call.node.images.layer_sizes())
    return await answer_list(
        newest_first,
        test,
        lambda image: image_summary_answer(
            image_summary_json(shown(image), used[image.id], shared.get(image.id, -1)), version
        ),
    )


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

    def until(value: str) -> filters.Test[Image]:
        moment = parse_until(value, now())
        return lambda image: image.created < moment

    return {
        "reference": _of_reference,
        "dangling": dangling,
        "label": lambda value: lambda image: label_matches(image.config.labels, value),
        "before": before,
        "since": since,
        "until": until,
    }


def _of_reference(pattern: str) -> filters.Test[Image]:
    """Matches the name, or name and tag; `*` matches everything but a slash."""
    matches = reference_test(pattern)
    return lambda image: any(_is_named(name, matches) for name in (*image.tags, *image.digests))


def _is_named(name: str, matches: Callable[[str], bool]) -> bool:
    """`name` has a tag or a digest."""
    return matches(name) or matches(name.rpartition("@")[0] or name.rpartition(":")[0])


def _name_tests(patterns: Sequence[str]) -> Callable[[Image], Image]:
    """Reduces an image's names to those that the filter selects, as Docker does."""
    tests = [reference_test(pattern) for pattern in patterns]
    if not tests:
        return lambda image: image

    def shown(image: Image) -> Image:
        def asked(names: Sequence[str]) -> tuple[str, ...]:
            return tuple(
                name for name in names if any(_is_named(name, matches) for matches in tests)
            )

        return msgspec.structs.replace(image, tags=asked(image.tags), digests=asked(image.digests))

    return shown


async def inspect(call: Call) -> web.Response:
    """Docker has the field `Manifests` only with containerd's image store; without that store the
    parameter has no effect."""
    image = call.node.images.find(call.id)
    if call.query("platform"):
        if call.flag("manifests"):
            raise InvalidArgument(
                "conflicting options: manifests and platform options cannot both be set"
            )
        check_platform(image, call.id, call.query("platform"))
    return answer(image_answer(image_json(image), call.api_version))


async def tag(call: Call) -> web.Response:
    await call.node.images.tag(call.id, new_tag(call))
    return nothing(201)


def new_tag(call: Call) -> str:
    """`name:tag` of the parameters `repo` and `tag`. Raises `InvalidArgument`."""
    name = call.query("repo")
    if not name:
        raise InvalidArgument("invalid repo: it is empty")
    new = f"{name}:{call.query('tag')}" if call.query("tag") else name
    if name.rpartition("/")[2] == "sha256":
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
    familiar, tag, digest = references.parse(new)
    if digest:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    return f"{familiar}:{tag}"


async def remove(call: Call) -> web.Response:
    if call.query("platforms"):
        raise Unsupported(
            "removing an image for some platforms (platforms) is not supported by Weft"
        )
    done = await call.node.images.remove(call.id, call.flag("force"))
    return answer([{what: name} for what, name in done])


async def prune(call: Call) -> web.Response:
    """Removes images that no container has: those without a name or, with `dangling=false`, all."""
    wanted = call.filters(("dangling", "label", "label!", "until"))
    is_wanted = _prunable(wanted, now())
    images = call.node.images
    used = {container.image for container in call.node.containers.containers()}
    sizes = await images.layer_sizes()
    removed: list[tuple[str, str]] = []
    for image in images.all():
        if image.id not in used and is_wanted(image):
            with suppress(Conflict, NotFound):  # it is used by now, or was removed
                for name in image.tags or (image.id,):
                    removed += await images.remove(name)
    freed = sum(sizes.get(what, 0) for done, what in removed if done == DELETED)
    return answer(
        {
            "ImagesDeleted": [{done: what} for done, what in removed] or None,
            "SpaceReclaimed": freed,
        }
    )


def _prunable(wanted: filters.Filters, moment: Nanoseconds) -> filters.Test[Image]:
    """Raises `InvalidArgument`."""
    if len(wanted.get("dangling", ())) > 1:
        raise InvalidArgument("invalid filter 'dangling': only one value is expected")
    only_unnamed = all(boolean(value, "dangling") for value in wanted.get("dangling", ()))
    is_wanted = prunable(wanted, moment)
    return lambda image: (
        (not only_unnamed or not image.tags) and is_wanted(image.config.labels, image.created)
    )


async def pull(call: Call) -> web.StreamResponse:
    """Sends progress line by line; an error after the first line is a line as well."""
    if call.query("fromSrc"):
        return await import_image(call)
    auth = registry_auth.given(call.request)
    check_native(call)
    name, wanted = call.query("fromImage"), call.query("tag")
    if not wanted and not _says_version(name):
        raise Unsupported(f"pulling all tags of {name} is not supported by Weft: name a tag")
    reference = f"{name}{'@' if wanted.startswith('sha256:') else ':'}{wanted}" if wanted else name
    references.parse(reference)
    return await _progress(call, call.node.images.pull(reference, auth))


async def import_image(call: Call) -> web.Response:
    """`docker import`: an image of one layer, from a tar in the request's body."""
    if call.query("fromSrc") != "-":
        raise Unsupported(
            "importing an image from a URL (fromSrc) is not supported by Weft: fetch the file, and"
            " import that"
        )
    check_native(call)
    new = NewImage(
        task="import image",
        config=changed(ImageConfig(), call.request.query.getall("changes", [])),
        comment=call.query("message") or "Imported from -",
        name=new_tag(call) if call.query("repo") else "",
    )

    content = call.request.content.iter_chunked(256 * 1024)
    image = await call.node.image_exchange.make(new, content)
    return web.Response(body=encode({"status": image.id}), content_type="application/json")


def _says_version(name: str) -> bool:
    return "@" in name or ":" in name.rpartition("/")[2]


async def _progress(call: Call, lines: AsyncIterator[str]) -> web.StreamResponse:
    first = await anext(lines, None)
    async with streamed(call.request, "application/json", error_line) as response:
        if first is not None:
            await response.write(encode({"status": first}))
        async for line in lines:
            await response.write(encode({"status": line}))
    return response.response


async def load(call: Call) -> web.Response:
    """Streams the archive to the store, and never holds it whole in memory. What is wrong with the
    archive is said in a line of the answer, as in Docker."""
    check_native(call)
    try:
        loaded = await call.node.images.load(call.request.content.iter_chunked(256 * 1024))
    except WeftError as error:
        return web.Response(body=error_line(str(error)), content_type="application/json")
    lines = [
        encode({"stream": f"Loaded image{' ID' if name.startswith('sha256:') else ''}: {name}\n"})
        for name in loaded
    ]
    return web.Response(body=b"".join(lines), content_type="application/json")


async def distribution(call: Call) -> web.Response:
    """What the registry has under the name. By this the client pins the image of a service."""
    auth = registry_auth.given(call.request)
    try:
        async with asyncio.timeout(REGISTRY_PATIENCE):
            found = await call.node.images.distribution(call.id, auth)
    except TimeoutError:
        raise OperationFailed(
            f"cannot ask for {clip(call.id)}: the registry did not answer within"
            f" {REGISTRY_PATIENCE:g} s"
        ) from None
    return answer(distribution_json(found))
