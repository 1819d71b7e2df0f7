"""How a request asks a container to end: the grace period and the signal."""

from weft.api.call import Call
from weft.errors import InvalidArgument, clip
from weft.model.container import Container
from weft.model.meta import SECOND, Nanoseconds
from weft.model.numbers import decimal
from weft.model.signals import signal_name, signal_number

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
    return signal_name(signal_number(text)) if text else ""
