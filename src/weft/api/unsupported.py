"""What the Docker Engine API has and Weft has not: empty lists where one is asked for, and
otherwise a refusal that says what."""

from aiohttp import web

from weft.api.call import Call, Handler, answer
from weft.errors import NotFound, Unsupported


def refuse(what: str) -> Handler:
    """501: `<what> is not supported by Weft`."""

    async def handler(call: Call) -> web.StreamResponse:
        raise Unsupported(f"{what} is not supported by Weft")

    return handler


def empty(value: object) -> Handler:
    async def handler(call: Call) -> web.StreamResponse:
        return answer(value)

    return handler


def missing(text: str) -> Handler:
    """404, with `{}` standing for the name."""

    async def handler(call: Call) -> web.StreamResponse:
        raise NotFound(text.format(call.id))

    return handler
