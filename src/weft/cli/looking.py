"""What `weft flows` and its like have in common: the events of a look, from the API of a manager."""

import http.client
from collections.abc import Iterator

import click
import msgspec

from weft.errors import OperationFailed, Unavailable
from weft.model.capture import LENGTH
from weft.model.look import LookEvent, LookFailed, NodeSilent


def events(answer: http.client.HTTPResponse) -> Iterator[LookEvent]:
    """Raises `Unavailable` if the connection is lost, `OperationFailed` if the manager cannot go
    on."""
    decoder = msgspec.msgpack.Decoder(LookEvent)
    try:
        while head := answer.read(LENGTH.size):
            event = decoder.decode(answer.read(LENGTH.unpack(head)[0]))
            if isinstance(event, LookFailed):
                raise OperationFailed(event.cause)
            yield event
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise Unavailable(f"the answer was cut off: {error}") from error


def say_silent(hostname: str, event: NodeSilent) -> None:
    click.echo(f"weft: {hostname}: no answer: {event.cause}", err=True)
