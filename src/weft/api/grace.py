"""How a request asks a container to end: the grace period and the signal."""

import signal

from weft.api.call import Call
from weft.errors import InvalidArgument, clip
from weft.model.container import Container
from weft.model.meta import SECOND, Nanoseconds
from weft.model.numbers import decimal

FOR_EVER = 86400
MAX_GRACE = 2**31 - 1
"""Seconds."""


def grace_of(call: Call, container: Container) -> Nanoseconds:
    """The request's grace period in seconds, or the container's own. -1 means for ever, which is a
    day here: long enough for a container that was asked to stop."""
    text = call.query("t")
    if not text:
        return container.stop_grace_period
    seconds = decimal(text.removeprefix("-"), MAX_GRACE)
    if seconds is None:
        raise InvalidArgument(f"invalid t: {clip(text)!r} is not a number of seconds")
    return (FOR_EVER if text.startswith("-") else seconds) * SECOND


def stop_signal_of(call: Call) -> str:
    """The request's signal in place of the container's own; empty: none."""
    text = call.query("signal")
    return signal_name(text) if text else ""


def signal_name(text: str) -> str:
    """Returns `SIGTERM` for `SIGTERM`, `TERM`, `term` or `15`. Raises `InvalidArgument`."""
    try:
        if (number := decimal(text)) is not None:
            return signal.Signals(number).name
        return signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"].name
    except (ValueError, KeyError) as error:
        raise InvalidArgument(f"invalid signal: {clip(text)}") from error
