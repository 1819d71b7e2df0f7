"""What `weft flows` and its like have in common: the events of a look, from the API of a manager."""

import http.client
import queue
import threading
from collections.abc import Iterator

import click

from weft.cli.event_stream import received
from weft.errors import OperationFailed, WeftError
from weft.model.look import LookEvent, LookFailed, NodeSilent


def events(answer: http.client.HTTPResponse) -> Iterator[LookEvent]:
    """Raises `Unavailable` if the connection is lost, `OperationFailed` if the manager cannot go
    on."""
    for event in received(answer, LookEvent, "the answer"):
        if isinstance(event, LookFailed):
            raise OperationFailed(event.cause)
        yield event


Waiting = queue.Queue[LookEvent | WeftError | None]


def in_background(events: Iterator[LookEvent], most: int) -> Waiting:
    """The events as they come, `most` at a time; then the error that has ended them, or None."""
    waiting: Waiting = queue.Queue(most)

    def pump() -> None:
        try:
            for event in events:
                waiting.put(event)
            waiting.put(None)
        except WeftError as error:
            waiting.put(error)

    threading.Thread(target=pump, daemon=True).start()
    return waiting


def say_silent(hostname: str, event: NodeSilent) -> None:
    click.echo(f"weft: {hostname}: no answer: {event.cause}", err=True)
