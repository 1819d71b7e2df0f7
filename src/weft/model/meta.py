"""Metadata of every object in the store. Only the store writes it."""

import msgspec

Nanoseconds = int
"""A time in nanoseconds since 1970-01-01 UTC, or a duration. 0 means "never" or "not set"."""

SECOND: Nanoseconds = 1_000_000_000


class Meta(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    version: int = 0
    """Revision of the store at which the object was last written; 0 before it was ever stored.
    Compare-and-swap compares it."""
    created_at: Nanoseconds = 0
    updated_at: Nanoseconds = 0
