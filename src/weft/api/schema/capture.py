"""What `weft capture` asks for."""

from weft.api.schema.common import Wire
from weft.errors import InvalidArgument
from weft.model.capture import MAX_INSTRUCTIONS, Instruction


class CaptureWire(Wire, frozen=True):
    name: str = ""
    """A network, service or task, by name or id."""
    underlay: bool = False
    """Also the packets between the hosts."""
    filter: tuple[Instruction, ...] = ()
    """A program in classic BPF."""

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidArgument("cannot capture: Name is empty")
        if len(self.filter) > MAX_INSTRUCTIONS:
            raise InvalidArgument(
                f"cannot capture: Filter has {len(self.filter)} instructions,"
                f" at most {MAX_INSTRUCTIONS} are possible"
            )
        limits = (2**16, 2**8, 2**8, 2**32)
        for instruction in self.filter:
            if any(not 0 <= n < limit for n, limit in zip(instruction, limits, strict=True)):
                raise InvalidArgument(f"cannot capture: Filter: {instruction} is no instruction")
