"""Lists are filtered and encoded piece by piece, so that a long list does not block the event loop,
and with it heartbeats and name resolution.

The items are frozen values from the moment of the request. The state may change between two pieces;
the list does not.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from aiohttp import web

from weft.api.filters import Test
from weft.api.schema.common import Json, encode_item

T = TypeVar("T")

HOLD = 0.005
"""Seconds that one piece may occupy the event loop."""
STRIDE = 16
"""Items between two checks of the clock."""


async def answer_list(
    items: Iterable[T], test: Test[T], to_json: Callable[[T], Json]
) -> web.Response:
    """The items that pass the test, as one JSON array."""
    rows = []
    begun = time.monotonic()
    for number, item in enumerate(tuple(items), start=1):
        if test(item):
            rows.append(encode_item(to_json(item)))
        if not number % STRIDE and time.monotonic() - begun > HOLD:
            await asyncio.sleep(0)
            begun = time.monotonic()
    return web.Response(body=b"[" + b",".join(rows) + b"]\n", content_type="application/json")
