"""Locks and unlocks this manager's files as the swarm has it: the node's private key and the keys
that seal secrets (`session/node_lock.py`).

Each order of steps leaves a node that can be started, wherever it is interrupted: the node asks for
the unlock key if and only if its private key is locked. So the private key is locked first and
unlocked last."""

import logging
from collections.abc import Callable

from weft.daemon.sealing_key_file import SealingKeyFile
from weft.errors import Damaged, WeftError
from weft.pki.sealing import SealingKey
from weft.session.node_lock import NodeLock

log = logging.getLogger(__name__)


class LockedFiles:
    """`manager.autolock.Locked`."""

    def __init__(
        self, lock: NodeLock, sealing: SealingKeyFile, save_credentials: Callable[[], None]
    ) -> None:
        """`save_credentials`: writes the present ones anew."""
        self._lock, self._sealing, self._save = lock, sealing, save_credentials
        self._are_locked = False
        """Whether all files are known to be locked."""

    def hold(self, unlock: SealingKey | None) -> None:
        """Locks the files under this key, or unlocks them. Raises `OperationFailed`; to be called
        again then."""
        if unlock is None:
            self._open()
            return
        self._lock.turn_on(unlock)
        if not self._are_locked:
            self._save()
            self._write(self._keys())
            self._are_locked = True
            log.info("lock.on unlock_key=%s", unlock.id)

    def _open(self) -> None:
        lock, self._are_locked = self._lock, False
        if lock.is_on:
            keys = self._keys()
            lock.is_on = False
            try:
                self._write(keys)
                self._save()
            except WeftError:
                lock.is_on = True
                raise
            log.info("lock.off")
        lock.forget()

    def _keys(self) -> tuple[SealingKey, ...]:
        """A damaged file stays as it is, for an operator."""
        try:
            return self._sealing.read()
        except Damaged as error:
            log.error("sealing_key.unreadable cause=%s", error)
            return ()

    def _write(self, keys: tuple[SealingKey, ...]) -> None:
        if keys:
            self._sealing.write(keys)
