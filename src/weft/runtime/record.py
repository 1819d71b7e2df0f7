"""The files of one container, and their places.

<root>/containers/<id>/  weft.json     the record below: all that a daemon needs to find the
                                       container again; and a second time, weft.json.copy, since a
                                       container without a record cannot go on
                         transient     exists if the container is removed when it ends
                         config.json   for the OCI runtime; hosts, hostname, resolv.conf as the
                                       container sees them (readable there by every user; here only
                                       root can read any of these files)
                         log, log.*    the container's output (`log_files.py`)
                         <id>          its exit code, written by conmon; oom: exists if the
                                       container ran out of memory
                         attach, ctl   conmon's socket and FIFO
                         upper, work, merged    the overlay
                         places          while the container is made: mounts of parts of volumes
                         shm           /dev/shm of a container whose IPC namespace others may join
                         memory        where secrets and configs are mounted while the container is
                                       being made; empty at all other times
<run>/oci/               the OCI runtime's state
"""

import logging
import os
from functools import partial
from pathlib import Path

import msgspec

from weft.errors import Damaged, OperationFailed, cause_of
from weft.model.codec import decode_hook, encode_hook
from weft.model.container import Container, ContainerConfig
from weft.runtime.limits_document import resources
from weft.runtime.name_files import renewed_hosts, renewed_resolv_conf, rewrite
from weft.system.files import make_directory, replace_file
from weft.system.process import ProcessId
from weft.system.trees import remove_tree

log = logging.getLogger(__name__)

RECORDS = ("weft.json", "weft.json.copy")
TRANSIENT = "transient"
"""A file beside the record of a container that is removed when it ends: that record may be lost
with the host's power, as all of the container may."""
_SEEN_INSIDE = ("hosts", "hostname", "resolv.conf")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    container: Container
    stop_signal: str
    made: bool = False
    """False from before the first step of making the container until after the last: such a record
    belongs to a half made container."""
    started: bool = False
    init: ProcessId | None = None
    """The container's first process."""
    conmon: ProcessId | None = None


class Directory:
    """The files of one container."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.upper, self.work, self.merged = path / "upper", path / "work", path / "merged"
        self.log = path / "log"
        self.places = path / "places"
        self.memory = path / "memory"
        self.shm = path / "shm"

    def read(self) -> Record | None:
        """None if there is no record: the container is half made. Raises `Damaged` if neither of
        the two files can be read."""
        cause = ""
        for path in (self.path / name for name in RECORDS):
            try:
                record: Record = msgspec.json.decode(
                    path.read_bytes(), type=Record, dec_hook=decode_hook
                )
            except FileNotFoundError:
                continue
            except (OSError, msgspec.DecodeError, ValueError) as error:
                cause = cause or f"{path}: {error}"
                continue
            if cause:
                log.warning(
                    "container.record_damaged container=%s cause=%s", self.path.name[:12], cause
                )
            return record
        if cause:
            raise Damaged(f"cannot read the record of container {self.path.name}, {cause}")
        return None

    def write(self, record: Record) -> None:
        """Writes the copy first: the record itself counts, and keeps its old content if either
        write fails. A plain container is its user's, and outlives a loss of power: the copy is on
        the disk before the record is touched. That of a task is the swarm's, which makes another
        one. One that is removed when it ends outlives nothing, and has no copy."""
        content = msgspec.json.encode(record, enc_hook=encode_hook)
        own, copy = RECORDS
        if not record.container.is_transient:
            self._write(copy, content, durable=record.container.is_plain)
        elif not self.is_transient:
            self._write(TRANSIENT, b"")
        self._write(own, content)

    def write_files(self, files: dict[str, bytes]) -> None:
        """Raises `OperationFailed`."""
        for name, content in files.items():
            self._write(name, content, 0o644 if name in _SEEN_INSIDE else 0o600)

    def renew_names(self, before: ContainerConfig, now: ContainerConfig) -> None:
        """Changes the files of names of a running container as its configuration has changed. What
        is not as it was written has been changed in the container, and stays. Raises
        `OperationFailed`."""
        for name, old, new, renewed in (
            ("hosts", before.hosts, now.hosts, renewed_hosts),
            ("resolv.conf", before.resolv_conf, now.resolv_conf, renewed_resolv_conf),
        ):
            if old == new:
                continue
            try:
                rewrite(self.path / name, partial(renewed, old=old, new=new))
            except OSError as error:
                raise OperationFailed(
                    f"cannot write {self.path / name}: {cause_of(error)}"
                ) from error

    def write_resources(self, before: Container, config: ContainerConfig, swap: int) -> Path:
        """For the OCI runtime, which keeps a limit until it is told that there is none. `before`:
        the container with its old limits. `swap`: see `Container.memory_swap`. Raises
        `InvalidArgument`, `OperationFailed`."""
        wanted = resources(config, swap)
        if before.config.limits.pids and not config.limits.pids:
            wanted["pids"] = {"limit": -1}
        if before.memory_swap > 0 > swap:
            wanted["memory"]["swap"] = swap
        self._write("resources.json", msgspec.json.encode(wanted))
        return self.path / "resources.json"

    def _write(
        self, name: str, content: bytes, mode: int = 0o600, *, durable: bool = False
    ) -> None:
        """Writes the file whole or not at all."""
        try:
            replace_file(self.path / name, content, mode, durable)
        except OSError as error:
            raise OperationFailed(f"cannot write {self.path / name}: {cause_of(error)}") from error

    def make(self) -> None:
        """The container sees `upper` as `/`, so `upper` has the mode of `/`. Only root may enter
        the other directories; users in the container do not pass through them. Raises
        `OperationFailed`."""
        try:
            for path, mode in (
                (self.path, 0o700),
                (self.upper, 0o755),
                (self.work, 0o700),
                (self.merged, 0o700),
            ):
                make_directory(path, mode)
        except OSError as error:
            raise OperationFailed(f"cannot make {self.path}: {cause_of(error)}") from error

    @property
    def is_transient(self) -> bool:
        """Whether the container is removed when it ends, if its record cannot say so."""
        return (self.path / TRANSIENT).exists()

    def forget_exit(self) -> None:
        for name in (self.path.name, "oom", "attach", "ctl", "winsz"):
            (self.path / name).unlink(missing_ok=True)

    @property
    def exit_code(self) -> int | None:
        """None while the container runs, or if conmon could not write the code."""
        try:
            return int((self.path / self.path.name).read_text())
        except (OSError, ValueError):
            return None

    @property
    def out_of_memory(self) -> bool:
        return (self.path / "oom").exists()

    def remove(self) -> None:
        """Raises `OperationFailed`."""
        try:
            remove_tree(self.path)
        except OSError as error:
            raise OperationFailed(f"cannot remove {self.path}: {cause_of(error)}") from error


def opened(path: Path) -> int:
    """A descriptor of a directory. `/proc/self/fd/<descriptor>/name` addresses a socket in the
    directory even if its path is longer than sun_path (108 bytes)."""
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
