"""The replay window of an inbound association (RFC 4303 section 3.4.3): the sequence numbers that
may still come.

A number is checked before a packet is decrypted, and marked only after the packet's ICV was right:
a forged packet changes nothing.
"""

WINDOW = 4096
"""Bits. RFC 4303 asks for 32 at least; a burst of segments that overtakes others on a fast path is
longer than that."""
_MASK = (1 << WINDOW) - 1


class ReplayWindow:
    def __init__(self) -> None:
        self.top = 0
        """The highest number marked."""
        self._seen = 0
        """Bit n: number top - n was marked."""

    def is_fresh(self, sequence: int) -> bool:
        """Whether a packet with this number may be decrypted. 0 is never sent."""
        if sequence > self.top:
            return True
        age = self.top - sequence
        return sequence > 0 and age < WINDOW and not self._seen >> age & 1

    def mark(self, sequence: int) -> None:
        """Marks a fresh number whose packet had a right ICV."""
        ahead = sequence - self.top
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & _MASK if ahead < WINDOW else 1
            self.top = sequence
        else:
            self._seen |= 1 << -ahead
