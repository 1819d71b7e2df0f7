"""The keys that seal secrets, on a manager's disk: one file beside the store that only root can
read, and that the node removes when it stops being a manager. The lock of the node's files, if it
is on, locks this one too.

The file is not in the store, so that a copy of the store (etcd's data, a backup of the database, a
snapshot of an external etcd) shows no secret."""

import secrets
from collections.abc import Callable
from pathlib import Path

import msgspec

from weft.errors import Damaged, OperationFailed, cause_of
from weft.model import codec
from weft.model.cluster import Cluster
from weft.pki import stored_secrets
from weft.pki.sealing import KEY_BYTES, SealingKey
from weft.session.node_lock import NodeLock
from weft.system.files import replace_file

SEALING_KEYS = "sealing-keys"


class SealingKeyFile:
    """`manager.vault.SealingKeys`."""

    def __init__(self, path: Path, lock: NodeLock) -> None:
        self._path, self._lock = path, lock

    def read(self) -> tuple[SealingKey, ...]:
        """Empty if there is no file. Raises `Damaged`: another key must not replace one that a
        backup may still have. Raises `OperationFailed`."""
        try:
            content = self._lock.opened(SEALING_KEYS, self._path.read_bytes())
            keys: tuple[SealingKey, ...] = codec.decode(content, tuple[SealingKey, ...])
        except FileNotFoundError:
            return ()
        except (msgspec.DecodeError, ValueError, Damaged) as error:
            raise Damaged(
                f"cannot read the keys of the swarm's secrets, {self._path}: it is damaged. Restore"
                " the file; where there are other managers, it may be removed instead: they have"
                " the keys"
            ) from error
        except OSError as error:
            raise OperationFailed(f"cannot read {self._path}: {cause_of(error)}") from error
        return keys

    def add(self, key: SealingKey) -> None:
        """Raises `OperationFailed`."""
        self.write((*self.read(), key))

    def erase(self) -> None:
        self._path.unlink(missing_ok=True)

    def write(self, keys: tuple[SealingKey, ...]) -> None:
        """The keys are on the disk when this returns. Raises `OperationFailed`; then the old file is
        still there."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._path, self._lock.locked(SEALING_KEYS, codec.encode(keys)))
        except OSError as error:
            raise OperationFailed(f"cannot write {self._path}: {cause_of(error)}") from error


def sealing(keys: SealingKeyFile) -> Callable[[Cluster], Cluster]:
    """Names a key that is on this disk from now on, and seals a new swarm's secrets under it: the
    store never has them in clear."""
    found = keys.read()
    key = found[-1] if found else SealingKey(secrets.token_bytes(KEY_BYTES))
    if not found:
        keys.add(key)

    def seal(cluster: Cluster) -> Cluster:
        named = msgspec.structs.replace(cluster, sealing_key=key.id)
        return stored_secrets.sealed(named, key, secrets.token_bytes)

    return seal
