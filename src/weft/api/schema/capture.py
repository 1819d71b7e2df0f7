"""What `weft capture` asks for."""

from typing import Annotated

import msgspec

from weft.api.schema.common import Short, Wire
from weft.errors import InvalidArgument
from weft.model.capture import MAX_INSTRUCTIONS

Byte = Annotated[int, msgspec.Meta(ge=0, le=2**8 - 1)]
Word = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]


class CaptureWire(Wire, frozen=True):
    name: str = ""
    """A network, service or task, by name or id."""
    underlay: bool = False
    """Also the packets between the hosts."""
    filter: tuple[tuple[Short, Byte, Byte, Word], ...] = ()
    """A program in classic BPF."""

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidArgument("cannot capture: Name is empty")
        if len(self.filter) > MAX_INSTRUCTIONS:
            raise InvalidArgument(
                f"cannot capture: Filter has {len(self.filter)} instructions,"
                f" at most {MAX_INSTRUCTIONS} are possible"
            )
