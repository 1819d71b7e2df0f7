"""Parts of the Docker Engine API that Weft does not have: lists are empty, and all other requests
get an error that names the missing feature."""

from aiohttp import web

from weft.api.call import Call, Handler, answer
from weft.errors import NotFound, Unsupported

BUILDKIT = (
    "build them in a container of BuildKit: docker buildx create --name weft --driver"
    " docker-container --bootstrap, then docker buildx build --builder weft --load -t NAME ."
)
"""What to do instead of having the daemon build images (docs/building-images.md)."""


def refuse(what: str, hint: str = "") -> Handler:
    """Answers 501: `<what> is not supported by Weft`. `hint`: what to do instead."""
    text = f"{what} is not supported by Weft" + (hint and f"; {hint}")

    async def handler(call: Call) -> web.StreamResponse:
        raise Unsupported(text)

    return handler


def empty(value: object) -> Handler:
    async def handler(call: Call) -> web.StreamResponse:
        return answer(value)

    return handler


def missing(text: str) -> Handler:
    """Answers 404; `{}` in `text` stands for the name."""

    async def handler(call: Call) -> web.StreamResponse:
        raise NotFound(text.format(call.id))

    return handler
