"""The files of an agent on its node's disk, in a directory that only root can enter.

    assignment.msgpack   `Kept`: what is to run, and what the node was told about its networks. With
                         this file, a daemon that starts while no manager is in reach goes on where
                         the last one stopped. The keys of encrypted networks are part of it:
                         without the keys those networks would end with the daemon.
    configs/<id>         the data of one config that a task refers to; it never changes
    tasks.msgpack        `RecordBook`: what the node itself gave to its tasks, and the status last
                         reported (`records.py`)

Everything else that an agent is told stays in memory: the data of secrets above all. `Kept` lists
the fields that are written: a field that is added to the assignment does not reach the disk by
that."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from weft.agent.records import RecordBook
from weft.model.addresses import Port
from weft.model.assignment import Assignment, NetworkView, TaskAssignment
from weft.model.cluster import VXLAN_PORT
from weft.model.encryption import DataKey
from weft.model.ids import ConfigId, NetworkId, NodeId, TaskId
from weft.model.secret import Payload
from weft.system.value_file import ValueFile

_ID = re.compile(r"[0-9a-z]{1,64}")


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an assignment that may be on a disk. The fields have the names that they have in
    `Assignment`."""

    node: NodeId
    revision: int = 0
    data_path_port: Port = VXLAN_PORT
    keys: tuple[DataKey, ...] = ()
    tasks: dict[TaskId, TaskAssignment] = {}
    networks: dict[NetworkId, NetworkView] = {}


class ConfigFiles:
    """The data of configs, a file for each: a config may have a megabyte, and the assignment is
    written whole whenever it changes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> dict[ConfigId, Payload]:
        """Those that can be read; the manager sends the others again."""
        names = [path.name for path in self._directory.glob("*") if _ID.fullmatch(path.name)]
        found = {ConfigId(name): self._file(name).read() for name in sorted(names)}
        return {id: payload for id, payload in found.items() if payload is not None}

    def keep(self, configs: Mapping[ConfigId, Payload]) -> None:
        """Writes those that have no file yet, and removes the files of others. Raises
        `OperationFailed`."""
        wanted = {id for id, payload in configs.items() if _ID.fullmatch(id) and payload.data}
        there = {path.name for path in self._directory.glob("*")}
        for id in sorted(wanted - there):
            self._file(id).write(configs[ConfigId(id)])
        for name in there - wanted:
            self._file(name).remove()
        if there and not wanted:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _file(self, name: str) -> ValueFile[Payload]:
        return ValueFile(self._directory / name, Payload, durable=True)


class Disk:
    def __init__(self, directory: Path) -> None:
        """`directory`: for the agent alone, created when needed."""
        self._configs = ConfigFiles(directory / "configs")
        self._assignment = ValueFile(directory / "assignment.msgpack", Kept, durable=True)
        self.records = ValueFile(directory / "tasks.msgpack", RecordBook)

    def assignment(self) -> Assignment | None:
        """The last assignment that was kept, with the fields of `Kept` and the configs; None if
        there is none."""
        kept = self._assignment.read()
        if kept is None:
            return None
        fields = {name: getattr(kept, name) for name in Kept.__struct_fields__}
        return Assignment(**fields, configs=self._configs.read())

    def keep(self, assignment: Assignment) -> None:
        """Writes the assignment. Raises `OperationFailed`, and then the former one is still
        kept."""
        self._configs.keep(assignment.configs)
        self._assignment.write(
            Kept(**{name: getattr(assignment, name) for name in Kept.__struct_fields__})
        )

    def remove(self) -> None:
        self._assignment.remove()
        self._configs.keep({})
        self.records.remove()
