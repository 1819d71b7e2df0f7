"""What the name servers of this node have answered, and how long it took them."""

from time import perf_counter
from typing import Literal

from weft.dns import codec
from weft.dns.resolver import Transport
from weft.system.tally import FINE, Counts, Histograms

Source = Literal["here", "forwarded"]
"""Where an answer comes from: from what this node knows, or from another server."""
CODES = {
    codec.NOERROR: "noerror",
    codec.FORMERR: "formerr",
    codec.SERVFAIL: "servfail",
    codec.NXDOMAIN: "nxdomain",
    codec.NOTIMP: "notimp",
    codec.REFUSED: "refused",
}
"""Names of the response codes (RFC 1035 section 4.1.1); others are `other`."""


class NameTally:
    def __init__(self) -> None:
        self.answers = Counts()
        """By response code, source and transport."""
        self.seconds = Histograms("here", "forwarded", bounds=FINE)
        """From the question's arrival to the answer, by source."""

    def add(self, reply: bytes | None, source: Source, transport: Transport, begun: float) -> None:
        """`reply`: None if the question gets no answer. `begun`: by `perf_counter`."""
        code = CODES.get(reply[3] & 0xF, "other") if reply else "none"
        self.answers.add(code, source, transport)
        self.seconds.add(source, perf_counter() - begun)
