"""Parts of the Docker Engine API that Weft does not have: lists are empty, and all other requests
get an error that names the missing feature."""

from aiohttp import web

from weft.api.call import Call, Handler, answer
from weft.errors import NotFound, Unsupported


def refuse(what: str) -> Handler:
    """Answers 501: `<what> is not supported by Weft`."""

    async def handler(call: Call) -> web.StreamResponse:
        raise Unsupported(f"{what} is not supported by Weft")

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
