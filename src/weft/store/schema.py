"""Versions of what is in a store, and how an older one becomes the newest.

A store says which version wrote it. A newer one than this program knows is refused: it would read
it wrongly and write it worse. To change how an object is stored: raise the number in `CURRENT` and
add what turns the former version's values into the new ones'.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from weft.errors import OperationFailed
from weft.model.state import Kind

Step = Callable[[Kind, dict[str, Any]], dict[str, Any]]
"""From an object's fields as they were stored to those of the next version. It leaves alone what is
of that version already: an upgrade that was interrupted begins again."""


class Schema(msgspec.Struct, frozen=True):
    version: int
    steps: Mapping[int, Step]
    """By the version that they start from."""

    def check(self, found: int) -> None:
        """Raises `OperationFailed` if it is too new, or so old that the way up is not known any
        more."""
        if found > self.version:
            raise OperationFailed(
                f"its schema {found} is newer than {self.version}, the newest that this version"
                " knows"
            )
        if missing := [
            version for version in range(found, self.version) if version not in self.steps
        ]:
            raise OperationFailed(
                f"its schema {found} is too old: nothing here upgrades schema {missing[0]}"
            )

    def upgrade(self, kind: Kind, value: bytes, found: int) -> bytes:
        """An object as version `found` stored it, as this version does. Raises
        `msgspec.DecodeError`."""
        fields = msgspec.msgpack.decode(value)
        for version in range(found, self.version):
            fields = self.steps[version](kind, fields)
        return msgspec.msgpack.encode(fields)


CURRENT = Schema(1, {})
