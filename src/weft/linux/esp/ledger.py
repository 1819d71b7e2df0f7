"""The ledger of sequence numbers on disk: a file, readable by root only, that is replaced as a
whole and flushed to the disk before a block is used.

A missing or unreadable file is not treated as an empty one, since numbers might repeat. Then
nothing is sent until new keys are made and the directory is removed. A lock file beside the ledger
keeps a second engine out as long as the first one lives, and records whether there was a ledger
before.
"""

import fcntl
import hashlib
import os
from pathlib import Path

import msgspec

from weft.errors import OperationFailed, cause_of
from weft.esp.sequence import Block, Reservations
from weft.model.codec import decode, encode
from weft.model.encryption import Association
from weft.system.files import replace_file

_DIGEST = 16


class Ledger:
    def __init__(self, directory: Path) -> None:
        """Waits for the lock. Raises `OperationFailed`."""
        self._path = directory / "esp-ledger"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(
                directory / "esp-ledger.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as error:
            raise OperationFailed(
                f"cannot lock sequence ledger {self._path}: {cause_of(error)}"
            ) from error
        try:
            self._begin()
            self._reservations = self._read()
        except BaseException:
            self.close()
            raise

    def reserve(self, associations: tuple[Association, ...]) -> tuple[Block, ...]:
        """Reserves a block of numbers for each association; the reservations are on the disk when
        this returns. Raises `OperationFailed`; then none is reserved."""
        if not associations:
            return ()
        reservations, blocks = self._reservations.reserve(associations)
        try:
            self._write(reservations)
        except OSError as error:
            raise OperationFailed(
                f"cannot write sequence ledger {self._path}: {cause_of(error)}"
            ) from error
        self._reservations = reservations
        return blocks

    def close(self) -> None:
        os.close(self._lock)

    def _begin(self) -> None:
        """Makes the ledger on a host that never had one. A ledger that is missing later was
        lost."""
        try:
            if os.fstat(self._lock).st_size:
                return
            if not self._path.exists():
                self._write(Reservations())
            os.pwrite(self._lock, b"there is a ledger\n", 0)
            os.fsync(self._lock)
        except OSError as error:
            raise OperationFailed(
                f"cannot write sequence ledger {self._path}: {cause_of(error)}"
            ) from error

    def _read(self) -> Reservations:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            raise OperationFailed(self._lost("it is missing")) from None
        except OSError as error:
            raise OperationFailed(
                f"cannot read sequence ledger {self._path}: {cause_of(error)}"
            ) from error
        digest, body = data[:_DIGEST], data[_DIGEST:]
        try:
            if digest != _digest(body):
                raise msgspec.DecodeError("wrong checksum")
            reservations: Reservations = decode(body, Reservations)
        except msgspec.DecodeError as error:
            raise OperationFailed(self._lost(f"it is damaged ({error})")) from error
        return reservations

    def _lost(self, cause: str) -> str:
        advice = f"rotate the keys, then remove {self._path.parent}"
        return f"cannot read sequence ledger {self._path}: {cause}; {advice}"

    def _write(self, reservations: Reservations) -> None:
        body = encode(reservations)
        replace_file(self._path, _digest(body) + body)


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_DIGEST]
