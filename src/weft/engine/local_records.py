"""The records of this node's own networks, and of the sandboxes of its running containers.

    <directory>/<id>        a network, on the disk when `put` returns
    <directory>/sandboxes   all sandboxes; what a loss of power leaves of them does not matter, since
                            no container runs then

A file that cannot be read counts as missing, and is logged."""

from collections.abc import Iterable
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.model.bridge_network import BridgeNetwork
from weft.model.local_sandbox import LocalSandbox
from weft.system.value_file import ValueFile

_SANDBOXES = "sandboxes"
_DRAFT = "."
"""Begins the names of files that are being written."""


class LocalRecords:
    def __init__(self, directory: Path | None) -> None:
        """None: nothing is kept."""
        self._directory = directory

    def networks(self) -> list[BridgeNetwork]:
        """Raises `OperationFailed` if the disk fails."""
        if self._directory is None:
            return []
        try:
            names = sorted(path.name for path in self._directory.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OperationFailed(f"cannot read {self._directory}: {cause_of(error)}") from error
        files = (_network(self._directory, name) for name in names if _is_network(name))
        return [network for file in files if (network := file.read()) is not None]

    def put(self, network: BridgeNetwork) -> None:
        """Raises `OperationFailed`."""
        if self._directory is not None:
            _network(self._directory, network.id).write(network)

    def remove(self, network: BridgeNetwork) -> None:
        if self._directory is not None:
            _network(self._directory, network.id).remove()

    def sandboxes(self) -> list[LocalSandbox]:
        """Raises `OperationFailed` if the disk fails."""
        return list(_sandboxes(self._directory).read() or ()) if self._directory else []

    def put_sandboxes(self, places: Iterable[LocalSandbox]) -> None:
        """Raises `OperationFailed`."""
        if self._directory is not None:
            _sandboxes(self._directory).write(list(places))


def _is_network(name: str) -> bool:
    return name != _SANDBOXES and not name.startswith(_DRAFT)


def _network(directory: Path, id: str) -> ValueFile[BridgeNetwork]:
    return ValueFile(directory / id, BridgeNetwork, durable=True)


def _sandboxes(directory: Path) -> ValueFile[list[LocalSandbox]]:
    return ValueFile(directory / _SANDBOXES, list[LocalSandbox])
