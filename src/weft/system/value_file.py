"""Values on disk, one in a file, which is replaced whole (`files.py`).

Those that are not `durable` are not flushed: after a loss of power no container runs and no
namespace exists, and a file that was cut short then counts as missing, which the agent copes with
as it does on its first day.
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
        """`durable`: on the disk when written, so that it also outlives a loss of power; costs a
        wait for the disk."""
        self._durable = durable
        self._path = path
        self._type = type_

    def read(self) -> T | None:
        """None if there is none, or none that can be read. Raises `OperationFailed` if the disk
        refuses."""
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
        """For root's eyes only: an assignment has keys in it. Raises `OperationFailed`; the old
        value is still there then."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(self._path, codec.encode(value), durable=self._durable)
        except OSError as error:
            raise OperationFailed(f"cannot write {self._path}: {cause_of(error)}") from error

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)
