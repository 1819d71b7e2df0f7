"""The keys that seal secrets, on a manager's disk: one file beside the store that only root can
read, and that the node removes when it stops being a manager.

The file is not in the store, so that a copy of the store (etcd's data, a backup of the database, a
snapshot of an external etcd) shows no secret."""

from pathlib import Path

from weft.errors import Damaged
from weft.pki.sealing import SealingKey
from weft.system.value_file import ValueFile


class SealingKeyFile:
    """`manager.vault.SealingKeys`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = ValueFile(path, tuple[SealingKey, ...], durable=True)

    def read(self) -> tuple[SealingKey, ...]:
        """Empty if there is no file. Raises `Damaged`: another key must not replace one that a
        backup may still have."""
        keys = self._file.read()
        if keys is None and self._path.exists():
            raise Damaged(
                f"cannot read the keys of the swarm's secrets, {self._path}: it is damaged. Restore"
                " the file; where there are other managers, it may be removed instead: they have"
                " the keys"
            )
        return keys or ()

    def add(self, key: SealingKey) -> None:
        """Raises `OperationFailed`."""
        self._file.write((*self.read(), key))
