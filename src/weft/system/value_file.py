"""Values on disk, one per file; a write replaces the whole file (`files.py`).

Files that are not `durable` are not flushed. After a loss of power no container runs and no
namespace exists, and a truncated file counts as missing; the agent copes with that as on a new
host.
"""

import logging
from pathlib import Path
from typing import Generic, TypeVar, cast

import msgspec

from weft.errors import OperationFailed, cause_of
from weft.model import codec
from weft.system.files import replace_file

log = logging.getLogger(__name__)

T = TypeVar("T")


class ValueFile(Generic[T]):
    """One value of one type in one file."""

    def __init__(self, path: Path, type_: type[T], durable: bool = False) -> None:
        """`durable`: the value is on the disk when `write` returns, and outlives a loss of power,
        at the price of waiting for the disk."""
        self._durable = durable
        self._path = path
        self._type = type_

    def read(self) -> T | None:
        """The value; None if the file is missing or unreadable as such a value. Raises
        `OperationFailed` if the disk fails."""
        try:
            return cast(T, codec.decode(self._path.read_bytes(), self._type))
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("file.unreadable path=%s cause=%s", self._path, error)
            return None
        except OSError as error:
            raise OperationFailed(f"cannot read {self._path}: {cause_of(error)}") from error

    def write(self, value: T) -> None:
        """Writes a file that only root can read: an assignment has keys in it. Raises
        `OperationFailed`; then the old value is still there."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._path, codec.encode(value), durable=self._durable)
        except OSError as error:
            raise OperationFailed(f"cannot write {self._path}: {cause_of(error)}") from error

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
