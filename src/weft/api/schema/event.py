"""Events: one JSON object per line of `docker events`."""

from weft.api.schema.common import Json
from weft.model.container import NodeEvent
from weft.model.meta import SECOND


def event_json(event: NodeEvent) -> Json:
    """Includes the deprecated `status`, `id` and `from`, which older clients read for containers
    and images."""
    old: Json = {}
    if event.type in ("container", "image"):
        old = {"status": event.action, "id": event.id}
        if "image" in event.attributes:
            old["from"] = event.attributes["image"]
    return old | {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": event.scope,
        "time": event.time // SECOND,
        "timeNano": event.time,
    }
