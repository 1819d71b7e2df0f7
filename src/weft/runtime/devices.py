"""The devices of a container: nodes in its /dev, and what its devices cgroup allows (the OCI
specification's `linux.devices` and `linux.resources.devices`), from the nodes that this host has.

The runtime itself adds what every container has: null, zero, full, random, urandom, tty, ptmx,
console. Source of the rules: moby `daemon/oci_linux.go` (WithDevices) and `oci/devices_linux.go`.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from weft.errors import OperationFailed, cause_of
from weft.model.device import Device, DeviceRule
from weft.model.service import ContainerSpec

_NOTHING: dict[str, Any] = {"allow": False, "access": "rwm"}
_EVERYTHING: dict[str, Any] = {"allow": True, "access": "rwm"}
_ALWAYS = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "console")
"""Nodes below /dev that the runtime makes in every container."""
_NOT_DEVICES = ("pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev")
"""Directories below /dev that are a container's own, or hold no devices of the host."""


class Devices(NamedTuple):
    """Both parts of the specification."""

    nodes: tuple[dict[str, Any], ...] = ()
    rules: tuple[dict[str, Any], ...] = (_NOTHING,)


def find_devices(
    spec: ContainerSpec, given: Sequence[DeviceRule] = (), dev: Path = Path("/dev")
) -> Devices:
    """What the container gets. `given`: what it may use without a node. `dev`: the host's, all of
    which a privileged container gets. Raises `OperationFailed` with Docker's text for a device that
    this host does not have."""
    chosen = [(node, device.access) for device in spec.devices for node in _nodes_of(device)]
    if spec.privileges.privileged:
        nodes = {node["path"]: node for node in _all_nodes(dev)}
        nodes |= {node["path"]: node for node, _ in chosen}
        return Devices(tuple(nodes.values()), (_EVERYTHING,))
    rules = [
        {"allow": True, "type": node["type"], "major": node["major"], "minor": node["minor"],
         "access": access}
        for node, access in chosen
    ]  # fmt: skip
    rules += [_document(rule) for rule in given]
    return Devices(tuple(node for node, _ in chosen), (_NOTHING, *rules))


def _document(rule: DeviceRule) -> dict[str, Any]:
    numbers = {"major": rule.major, "minor": rule.minor}
    found = {name: number for name, number in numbers.items() if number is not None}
    return {"allow": True, "type": rule.kind, "access": rule.access} | found


def _nodes_of(device: Device) -> list[dict[str, Any]]:
    """The device's node, or all below a directory. A link is followed, as links of /dev/serial/by-id
    are meant to be."""
    source = Path(device.source)
    try:
        status = source.stat()
        if stat.S_ISDIR(status.st_mode):
            found = [
                _node(f"{device.target}/{path.relative_to(source)}", status)
                for path, status in _below(source)
            ]
            if not found:
                raise OperationFailed(f"{_missing(device.source)}: no devices in the directory")
            return found
    except OSError as error:
        raise OperationFailed(f"{_missing(device.source)}: {cause_of(error)}") from None
    if not _is_device(status):
        raise OperationFailed(f"{_missing(device.source)}: not a device node")
    return [_node(device.target, status)]


def _missing(source: str) -> str:
    return f'error gathering device information while adding custom device "{source}"'


def _all_nodes(dev: Path) -> Iterator[dict[str, Any]]:
    for path, status in _below(dev):
        name = str(path.relative_to(dev))
        if name not in _ALWAYS:
            yield _node(f"/dev/{name}", status)


def _below(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The device nodes, sorted. A node that goes away meanwhile is left out."""
    for path in sorted(directory.iterdir()):
        try:
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                if path.name not in _NOT_DEVICES:
                    yield from _below(path)
            elif _is_device(status):
                yield path, status
        except FileNotFoundError:
            continue


def _is_device(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)


def _node(target: str, status: os.stat_result) -> dict[str, Any]:
    return {
        "path": target,
        "type": "c" if stat.S_ISCHR(status.st_mode) else "b",
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "fileMode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }
