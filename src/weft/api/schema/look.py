"""What `weft flows` asks for."""

from weft.api.schema.common import Wire
from weft.errors import InvalidArgument, clip

MAX_REFERENCE = 255


class FlowsWire(Wire, frozen=True):
    service: str = ""
    """Only its connections: a name or id; empty: all."""
    follow: bool = False

    def __post_init__(self) -> None:
        if len(self.service) > MAX_REFERENCE:
            raise InvalidArgument(f"cannot show flows: Service: {clip(self.service)!r} is too long")
