"""The events of an answer that goes on, from the API of a manager (`model/event_stream.py`)."""

import http.client
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from weft.errors import Unavailable
from weft.model.event_stream import LENGTH


def received(answer: http.client.HTTPResponse, kinds: Any, what: str) -> Iterator[Any]:
    """`kinds`: the events' types. Raises `Unavailable` if the connection is lost."""
    decoder = msgspec.msgpack.Decoder(kinds)
    try:
        while head := answer.read(LENGTH.size):
            yield decoder.decode(answer.read(LENGTH.unpack(head)[0]))
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise Unavailable(f"{what} was cut off: {error}") from error


@contextmanager
def enough() -> Iterator[None]:
    """Ends the block when the reader of standard output has seen enough."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
