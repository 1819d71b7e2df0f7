"""Events: past events from `since` on, then new events as they happen, until `until` or until the
client disconnects."""

from collections.abc import Callable

from aiohttp import web

from weft.api import filters
from weft.api.call import Call
from weft.api.filters import label_matches
from weft.api.schema.common import encode, parse_moment
from weft.api.schema.event import event_json
from weft.api.streams import streamed
from weft.model.container import NodeEvent

OBJECTS = (
    "container",
    "image",
    "network",
    "service",
    "node",
    "secret",
    "config",
    "daemon",
    "plugin",
    "volume",
)
"""Kinds of objects that a filter may name; Weft has no events for the last three."""
FILTERS = ("type", "event", "label", "scope", *OBJECTS)


async def stream(call: Call) -> web.StreamResponse:
    test = filters.compile_test(call.filters(FILTERS), MAKERS)
    since, until = (
        parse_moment(call.query("since"), "since"),
        parse_moment(call.query("until"), "until"),
    )
    events = call.node.events(since, until)
    async with streamed(call.request, "application/json", last_words=None) as response:
        async for event in events:
            if test(event):
                await response.write(encode(event_json(event)))
    return response.response


def _of(kind: str) -> Callable[[str], filters.Test[NodeEvent]]:
    """Matches events about the object and events that name it (a network's connect event names its
    container)."""

    def matches(event: NodeEvent, value: str) -> bool:
        if event.type == kind:
            return event.id.startswith(value) or event.attributes.get("name") == value
        return bool(value) and event.attributes.get(kind, "").startswith(value)

    return lambda value: lambda event: matches(event, value)


MAKERS: filters.Makers[NodeEvent] = {
    "type": lambda value: lambda event: event.type == value,
    "event": lambda value: (
        lambda event: event.action == value or event.action.startswith(f"{value}:")
    ),
    "label": lambda value: lambda event: label_matches(event.attributes, value),
    "scope": lambda value: lambda event: event.scope == value,
    **{kind: _of(kind) for kind in OBJECTS},
}
