"""What `weft flows` and `weft top` ask for."""

from weft.api.schema.common import Count, Wire
from weft.errors import InvalidArgument, clip
from weft.model.meta import SECOND
from weft.model.top import LONGEST, SHORTEST

MAX_REFERENCE = 255


class FlowsWire(Wire, frozen=True):
    service: str = ""
    """Only its connections: a name or id; empty: all."""
    follow: bool = False

    def __post_init__(self) -> None:
        if len(self.service) > MAX_REFERENCE:
            raise InvalidArgument(f"cannot show flows: Service: {clip(self.service)!r} is too long")


class TopWire(Wire, frozen=True):
    every: Count = 2 * SECOND
    """Nanoseconds between two readings."""
    once: bool = False
    """Two readings, and no more."""

    def __post_init__(self) -> None:
        if not SHORTEST <= self.every <= LONGEST:
            raise InvalidArgument(
                f"cannot show counters: Every: {self.every} ns is not between"
                f" {SHORTEST // SECOND} and {LONGEST // SECOND} s"
            )
