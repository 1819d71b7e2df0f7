"""The files of an agent on its node's disk, in a directory that only root can enter.

    assignment.msgpack   `Kept`: what is to run, and what the node was told about its networks. With
                         this file, a daemon that starts while no manager is in reach goes on where
                         the last one stopped. The keys of encrypted networks are part of it:
                         without the keys those networks would end with the daemon.
    tasks.msgpack        `RecordBook`: what the node itself gave to its tasks, and the status last
                         reported (`records.py`)

Everything else that an agent is told stays in memory. `Kept` lists the fields that are written: a
field that is added to the assignment does not reach the disk by that."""

from pathlib import Path

import msgspec

from weft.agent.records import RecordBook
from weft.model.addresses import Port
from weft.model.assignment import Assignment, NetworkView, TaskAssignment
from weft.model.cluster import VXLAN_PORT
from weft.model.encryption import DataKey
from weft.model.ids import NetworkId, NodeId, TaskId
from weft.system.value_file import ValueFile


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an assignment that may be on a disk. The fields have the names that they have in
    `Assignment`."""

    node: NodeId
    revision: int = 0
    data_path_port: Port = VXLAN_PORT
    keys: tuple[DataKey, ...] = ()
    tasks: dict[TaskId, TaskAssignment] = {}
    networks: dict[NetworkId, NetworkView] = {}


class Disk:
    def __init__(self, directory: Path) -> None:
        """`directory`: for the agent alone, created when needed."""
        self._assignment = ValueFile(directory / "assignment.msgpack", Kept, durable=True)
        self.records = ValueFile(directory / "tasks.msgpack", RecordBook)

    def assignment(self) -> Assignment | None:
        """The last assignment that was kept, with the fields of `Kept`; None if there is none."""
        kept = self._assignment.read()
        if kept is None:
            return None
        return Assignment(**{name: getattr(kept, name) for name in Kept.__struct_fields__})

    def keep(self, assignment: Assignment) -> None:
        """Writes the assignment. Raises `OperationFailed`, and then the former one is still
        kept."""
        self._assignment.write(
            Kept(**{name: getattr(assignment, name) for name in Kept.__struct_fields__})
        )

    def remove(self) -> None:
        self._assignment.remove()
        self.records.remove()
