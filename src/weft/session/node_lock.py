"""The lock of a manager's files (`docker swarm update --autolock`).

    <data root>/swarm/lock        the disk key, sealed under the unlock key, which users keep
    <data root>/swarm/…           files that are locked: sealed under the disk key
    <run directory>/node.key      the node's private key for etcd, which reads it for each
                                  connection: in memory, gone after a reboot of the host

The disk key is random, and differs from manager to manager. It never changes as long as the daemon
runs: another unlock key means another `lock` and nothing else, replaced as one. A locked file is one
line of text, so it is recognised and never taken for what it was before."""

import base64
import binascii
from collections.abc import Callable
from pathlib import Path

import msgspec

from weft.errors import Damaged, OperationFailed, Unauthorized, cause_of
from weft.model import codec
from weft.model.secret import Sealed
from weft.pki import sealing
from weft.pki.sealing import KEY_BYTES, NONCE_BYTES, SealingKey
from weft.system.files import replace_file

LOCKED = (
    "Swarm is encrypted and needs to be unlocked before it can be used. Please use"
    ' "docker swarm unlock" to unlock it.'
)
WRONG_KEY = "swarm could not be unlocked: invalid key provided"
"""Docker Swarm's words, both."""
_MARK = "weft-locked-1:"
_DISK_KEY = "disk key"


class NodeLock:
    def __init__(self, directory: Path, run: Path, entropy: Callable[[int], bytes]) -> None:
        """`directory`: `<data root>/swarm`; `run`: a directory in memory."""
        self._path = directory / "lock"
        self.etcd_key = run / "node.key"
        """Where etcd finds the node's private key while the lock is on."""
        self._entropy = entropy
        self._key: SealingKey | None = None
        self.is_on = False
        """Whether files that are written now are to be locked."""

    # --- the lock itself

    def unlock(self, unlock: SealingKey) -> None:
        """Learns the disk key. Raises `Unauthorized` if `unlock` is not the right key, `Damaged`,
        `OperationFailed`."""
        sealed = self._read()
        if sealed.key != unlock.id:
            raise Unauthorized(WRONG_KEY)
        self._key = SealingKey(sealing.opened(unlock, _DISK_KEY, sealed))
        self.is_on = True

    def turn_on(self, unlock: SealingKey) -> None:
        """From now on `unlock` opens the disk key, and only that. Raises `OperationFailed`: nothing
        has changed."""
        key = self._key or SealingKey(self._entropy(KEY_BYTES))
        if self.is_on and self._is_under(unlock):
            return
        sealed = sealing.seal(unlock, _DISK_KEY, key.secret, self._entropy(NONCE_BYTES))
        self._write(codec.encode(sealed))
        self._key, self.is_on = key, True

    def forget(self) -> None:
        """Removes the lock, when no file is locked any more. Raises `OperationFailed`."""
        try:
            self._path.unlink(missing_ok=True)
            self.etcd_key.unlink(missing_ok=True)
        except OSError as error:
            raise OperationFailed(f"cannot remove {self._path}: {cause_of(error)}") from error

    # --- files

    def is_locked(self, content: str) -> bool:
        return content.startswith(_MARK)

    def locked(self, name: str, content: bytes) -> bytes:
        """The content of file `name`, to be written: locked if the lock is on."""
        if not self.is_on or self._key is None:
            return content
        sealed = sealing.seal(self._key, name, content, self._entropy(NONCE_BYTES))
        return f"{_MARK}{base64.b64encode(codec.encode(sealed)).decode()}\n".encode()

    def opened(self, name: str, content: bytes) -> bytes:
        """The content of file `name`, which may be locked. Raises `Damaged`, and `OperationFailed`
        if the disk key is not known."""
        if not content.startswith(_MARK.encode()):
            return content
        if self._key is None:
            raise OperationFailed(LOCKED)
        try:
            line = base64.b64decode(content.strip().removeprefix(_MARK.encode()), validate=True)
            return sealing.opened(self._key, name, codec.decode(line, Sealed))
        except (binascii.Error, msgspec.DecodeError, OperationFailed) as error:
            raise Damaged(f"cannot unlock file {name}: {error}") from error

    def _is_under(self, unlock: SealingKey) -> bool:
        try:
            return self._read().key == unlock.id
        except OperationFailed:
            return False  # it is written anew

    def _read(self) -> Sealed:
        try:
            found: Sealed = codec.decode(self._path.read_bytes(), Sealed)
        except (OSError, msgspec.DecodeError) as error:
            raise Damaged(
                f"cannot unlock this node, {self._path}: {cause_of(error)}. Restore the file, or"
                " give this membership up: docker swarm leave --force"
            ) from error
        return found

    def _write(self, content: bytes) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self._path, content)
        except OSError as error:
            raise OperationFailed(f"cannot write {self._path}: {cause_of(error)}") from error
