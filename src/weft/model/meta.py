"""Metadata of every object in the store. Only the store writes it."""

import msgspec

Nanoseconds = int
"""A time in nanoseconds since 1970-01-01 UTC, or a duration. 0 means "never" or "not set"."""

SECOND: Nanoseconds = 1_000_000_000


APART: Nanoseconds = 60 * SECOND
"""How far clocks of hosts that keep time may be apart."""


def bounded(until: Nanoseconds, longest: Nanoseconds, now: Nanoseconds) -> Nanoseconds:
    """When a wait that was to last `longest` at most is over. If that is further away than `longest`,
    the clock was set back, or another host's was ahead: how much of the wait is left cannot be told,
    and it is over now. It would last as long as the clock was wrong."""
    return until if until - now <= longest + APART else now


class Meta(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    version: int = 0
    """Revision of the store at which the object was last written; 0 before it was ever stored.
    Compare-and-swap compares it."""
    created_at: Nanoseconds = 0
    updated_at: Nanoseconds = 0
