"""Versions of a store's content, and the upgrade of an older one.

A store says which version wrote it. A version newer than this program knows is refused: the program
would read it wrongly and damage it, or ignore what it does not know and run, say, a task without
its secrets. To change how an object is stored, raise the number in `CURRENT` and add the step that
turns values of the former version into new ones. A new field, kind or value of an old field is a
change as well, of which the step is `unchanged`. One number is enough for all changes between two
releases: `tests/unit/store/stored_fields.json` has what the released versions store."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from weft.errors import OperationFailed
from weft.model.state import Kind

Step = Callable[[Kind, dict[str, Any]], dict[str, Any]]
"""Turns an object's stored fields into those of the next version. A step must leave fields of that
version alone: an interrupted upgrade begins again."""


class Schema(msgspec.Struct, frozen=True):
    version: int
    steps: Mapping[int, Step]
    """Each step, by the version that it starts from."""

    def check(self, found: int) -> None:
        """Raises `OperationFailed` if version `found` is too new, or so old that a step is
        missing."""
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
        """Turns an object as version `found` stored it into one of this version. Raises
        `msgspec.DecodeError`."""
        fields = msgspec.msgpack.decode(value)
        for version in range(found, self.version):
            fields = self.steps[version](kind, fields)
        return msgspec.msgpack.encode(fields)


def unchanged(kind: Kind, fields: dict[str, Any]) -> dict[str, Any]:
    """The step to a version that only stores more."""
    return fields


CURRENT = Schema(2, {1: unchanged})
"""Version 2 has secrets, configs, jobs, health checks, privileges, devices, generic resources, options
of mounts and of logs, autolock."""
