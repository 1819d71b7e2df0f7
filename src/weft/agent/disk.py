"""What an agent leaves on the disk of its node, in a directory that only root can enter, and what
it does not.

    assignment.msgpack   `Kept`: what is to run, and what the node was told of its networks. With it
                         a daemon that starts while no manager is in reach goes on where the last
                         one stopped. The keys of encrypted networks are part of it: without them
                         those networks would end with the daemon.
    tasks.msgpack        `RecordBook`: what the node itself gave to its tasks, and the status last
                         reported (`records.py`)

Whatever else an agent is told stays in memory. `Kept` says field by field what is written: what an
assignment has beside these fields cannot get there by being added to the assignment.
"""

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
    """The part of an assignment that may lie on a disk. Its fields have the names that they have
    there."""

    node: NodeId
    revision: int = 0
    data_path_port: Port = VXLAN_PORT
    keys: tuple[DataKey, ...] = ()
    tasks: dict[TaskId, TaskAssignment] = {}
    networks: dict[NetworkId, NetworkView] = {}


class Disk:
    def __init__(self, directory: Path) -> None:
        """`directory`: of its own, made when needed."""
        self._assignment = ValueFile(directory / "assignment.msgpack", Kept, durable=True)
        self.records = ValueFile(directory / "tasks.msgpack", RecordBook)

    def assignment(self) -> Assignment | None:
        """The last one that was kept, as far as it was."""
        kept = self._assignment.read()
        if kept is None:
            return None
        return Assignment(**{name: getattr(kept, name) for name in Kept.__struct_fields__})

    def keep(self, assignment: Assignment) -> None:
        """Raises `OperationFailed`; what was kept before is still there then."""
        self._assignment.write(
            Kept(**{name: getattr(assignment, name) for name in Kept.__struct_fields__})
        )

    def remove(self) -> None:
        self._assignment.remove()
        self.records.remove()
