"""A container's mounts in the form of the OCI runtime specification, with Docker's options.

Sources: moby `daemon/oci_linux.go` (`withMounts`) and `volume/mounts/linux_parser.go`
(`ConvertTmpfsOptions`). Pure: `container_mounts.py` makes the sources ready.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from weft.model.service import Mount
from weft.model.volume import MountPoint, clean

Document = dict[str, Any]
_ABOVE = {"shared": "shared", "rshared": "shared", "slave": "rslave", "rslave": "rslave"}
"""The propagation that the container's root needs for one of a mount's."""


class UserMounts(msgspec.Struct, frozen=True):
    """The mounts that a user or an image asks for, ready to be made."""

    documents: tuple[Document, ...] = ()
    root_propagation: str = ""
    """Of the container's root; empty for the runtime's default."""


NO_MOUNTS = UserMounts()


def user_mounts(
    points: Sequence[MountPoint], sources: Mapping[str, str], *, recursive_read_only: bool
) -> UserMounts:
    """`sources`: for a destination the path to mount there, if it is not the mount point's own
    source. `recursive_read_only`: whether the host can make a whole tree of mounts read-only."""
    documents = [
        _document(point, sources.get(point.destination, point.source), recursive_read_only)
        for point in points
    ]
    needed = {_ABOVE[point.propagation] for point in points if point.propagation in _ABOVE}
    above = "shared" if "shared" in needed else "rslave" if needed else ""
    return UserMounts(tuple(documents), above)


def _document(point: MountPoint, source: str, recursive_read_only: bool) -> Document:
    if point.type == "tmpfs":
        options, kind, source = _tmpfs_options(point.request, point.read_only), "tmpfs", "tmpfs"
    else:
        options, kind = _bind_options(point, recursive_read_only), "bind"
    return {"destination": point.destination, "type": kind, "source": source, "options": options}


def _bind_options(point: MountPoint, recursive_read_only: bool) -> list[str]:
    asked = point.request.bind if point.request is not None else None
    recursive = asked is None or not asked.non_recursive
    access = "rw"
    if point.read_only:
        whole = recursive_read_only and not (asked is not None and asked.read_only_non_recursive)
        access = "rro" if whole else "ro"
    return ["rbind" if recursive else "bind", access, point.propagation or "rprivate"]


def _tmpfs_options(request: Mount | None, read_only: bool) -> list[str]:
    """A later option replaces an earlier one of the same kind."""
    options = {"exec": "noexec", "suid": "nosuid", "dev": "nodev", "mode": "mode=1777"}
    options["access"] = "ro" if read_only else "rw"
    if request is not None:
        if request.tmpfs_mode:
            options["mode"] = f"mode={request.tmpfs_mode:o}"
        if request.tmpfs_size:
            options["size"] = f"size={request.tmpfs_size}"
        for name, *value in request.tmpfs_options:
            options[name.removeprefix("no")] = "=".join((name, *value))
    return [*options.values(), "rprivate"]


def arranged(documents: Sequence[Document], own: Sequence[Document]) -> list[Document]:
    """All mounts in the order in which they are made: `documents` are the system's, and a mount of
    the user's takes the place of one of them; a mount comes after the one that it lies in."""
    taken = {mount["destination"] for mount in own}
    system = [
        mount
        for mount in documents
        if mount["destination"] not in taken
        and not ("/dev" in taken and mount["destination"].startswith("/dev/"))
    ]
    return [*system, *sorted(own, key=lambda mount: _depth(mount["destination"]))]


def _depth(path: str) -> int:
    return len([part for part in clean(path).split("/") if part])
