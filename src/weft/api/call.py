"""One request as a handler sees it: the node behind the API, the path, the query and the body; and
the answers that a handler may return.

Handlers are coroutines of one argument, `Call`. They return a response or raise an error of
`weft.errors`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from aiohttp import web

from weft.api import filters, versions
from weft.api.backend import Node, Swarm
from weft.api.execs import Execs
from weft.api.schema.common import encode
from weft.api.schema.decoding import decode
from weft.api.versions import MAX_VERSION, Version, version_number
from weft.errors import InvalidArgument, clip
from weft.model.numbers import decimal

T = TypeVar("T")
AT_ONCE = 32 * 1024
"""Bytes of a body that is decoded on the event loop. A longer body would block the loop for too
long and is decoded in a thread."""


class Call:
    """`large`: limits the number of long bodies that are decoded at the same time."""

    def __init__(
        self, request: web.Request, node: Node, execs: Execs, large: asyncio.Semaphore
    ) -> None:
        self.request = request
        self.node = node
        self.execs = execs
        self._large = large

    @property
    def swarm(self) -> Swarm:
        """Raises `Unavailable` if this node is no manager."""
        return self.node.swarm()

    @property
    def id(self) -> str:
        """The name or id in the path."""
        return self.request.match_info["id"]

    @property
    def api_version(self) -> Version:
        """The version in the request's path, or the newest."""
        return version_number(self.request.match_info.get("version") or MAX_VERSION)

    @property
    def _route(self) -> str:
        resource = self.request.match_info.route.resource
        return "" if resource is None else resource.canonical.removeprefix("/v{version}")

    def query(self, name: str, default: str = "") -> str:
        """A parameter that the request's API version does not have yet counts as absent."""
        value = self.request.query.get(name, default)
        return (
            value if not value or versions.reads(self._route, name, self.api_version) else default
        )

    def flag(self, name: str) -> bool:
        """Docker's rule: every value except "", 0, no, false and none is true."""
        return self.query(name).strip().lower() not in ("", "0", "no", "false", "none")

    def number(self, name: str, most: int = 2**63 - 1) -> int:
        """Raises `InvalidArgument` if the value is not a number or is larger than `most`."""
        text = self.query(name)
        number = decimal(text, most)
        if number is None:
            raise InvalidArgument(
                f"invalid {name}: {clip(text)!r} is not a number from 0 to {most}"
            )
        return number

    def filters(self, allowed: Collection[str]) -> filters.Filters:
        return filters.parse(self.query("filters"), allowed)

    async def body(self, type_: type[T], empty: bool = False) -> T:
        """Decodes the body into a `type_`. `empty`: the body may be missing. Raises
        `InvalidArgument` or `Unsupported`."""
        body = await self.request.read()
        content_type = self.request.headers.get("Content-Type", "")
        if body and content_type and self.request.content_type != "application/json":
            shown = clip(content_type)
            raise InvalidArgument(
                f"unsupported Content-Type header ({shown}): must be 'application/json'"
            )
        later = versions.later_fields(type_.__name__, self.api_version)
        if len(body) <= AT_ONCE:
            return decode(body, type_, empty, later)
        async with self._large:
            return await asyncio.to_thread(decode, body, type_, empty, later)


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


def answer(value: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=encode(value), content_type="application/json")


def nothing(status: int = 204) -> web.Response:
    return web.Response(status=status)
