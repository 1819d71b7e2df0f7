"""The files with which vendors describe devices to container engines (Container Device Interface,
versions up to 1.1), and the devices in them. Reads this host's files anew each time, so that what an
administrator changes counts for the next container.

    /etc/cdi/*.yaml, *.json       the administrator's
    /var/run/cdi/*.yaml, *.json   made at run time; a device here wins over one of /etc/cdi

As in Docker, a file that cannot be read hides its own devices only, and so does a device that two
files of one directory have. `Found.causes` says so to whoever looks for such a device."""

import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from weft.errors import InvalidArgument, WeftError, cause_of
from weft.runtime import yaml_subset

DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))
_MOST_FILES = 256
_LARGEST = 256 << 10
"""Bytes of a file. Those of a host with eight GPUs have about 50 KiB."""
_VERSIONS = (
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
)  # fmt: skip
_KIND = re.compile(r"[A-Za-z](?:[\w.-]*[A-Za-z0-9])?/[A-Za-z](?:[\w.-]*[A-Za-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9](?:[\w.:-]*[A-Za-z0-9])?", re.ASCII)
_Id = Annotated[int, Meta(ge=0, lt=2**32)]
_Number = Annotated[int, Meta(ge=0, lt=2**31)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    pass


class DeviceNode(_Part, frozen=True):
    path: str
    host_path: str = ""
    """Empty: the same as in the container."""
    type: str = ""
    """`b`, `c`, `u` or `p`; empty: that of the host's."""
    major: _Number = 0
    minor: _Number = 0
    file_mode: str | int | None = None
    permissions: str = ""
    uid: _Id | None = None
    gid: _Id | None = None


class CdiMount(_Part, frozen=True):
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class Hook(_Part, frozen=True):
    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: Annotated[int, Meta(ge=0)] | None = None
    """Seconds."""


class ContainerEdits(_Part, frozen=True):
    env: tuple[str, ...] = ()
    device_nodes: tuple[DeviceNode, ...] = ()
    net_devices: tuple[Any, ...] = ()
    hooks: tuple[Hook, ...] = ()
    mounts: tuple[CdiMount, ...] = ()
    intel_rdt: Any = None
    additional_gids: tuple[_Id, ...] = ()


class CdiDevice(_Part, frozen=True):
    name: str
    container_edits: ContainerEdits
    annotations: dict[str, str] = field(default_factory=dict)


class CdiFile(_Part, frozen=True):
    cdi_version: str
    kind: str
    devices: tuple[CdiDevice, ...]
    container_edits: ContainerEdits = ContainerEdits()
    """For each container that gets one of the devices."""
    annotations: dict[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raises `InvalidArgument`."""
        if self._version not in _VERSIONS:
            raise InvalidArgument(f"invalid cdiVersion {self.cdi_version!r}")
        if not _KIND.fullmatch(self.kind):
            raise InvalidArgument(f"invalid kind {self.kind!r}: it must be <vendor>/<class>")
        names = [device.name for device in self.devices]
        for name in names:
            if not _NAME.fullmatch(name):
                raise InvalidArgument(f"invalid device name {name!r}")
        if not names or len(set(names)) < len(names):
            raise InvalidArgument("it has no devices" if not names else "it has a device twice")
        for edits in (self.container_edits, *(device.container_edits for device in self.devices)):
            _check_edits(edits)
            self._check_version(edits)

    @property
    def _version(self) -> str:
        return self.cdi_version.removeprefix("v")

    def _check_version(self, edits: ContainerEdits) -> None:
        """A field that came with a later version than the file says is a mistake in one of them."""
        for version, what, is_there in (
            ("0.4.0", "type of a mount", any(mount.type for mount in edits.mounts)),
            ("0.5.0", "hostPath of a device node", any(n.host_path for n in edits.device_nodes)),
            ("0.7.0", "intelRdt", edits.intel_rdt is not None),
            ("0.7.0", "additionalGids", bool(edits.additional_gids)),
            ("1.1.0", "netDevices", bool(edits.net_devices)),
        ):
            if is_there and _VERSIONS.index(version) > _VERSIONS.index(self._version):
                raise InvalidArgument(f"{what}: the spec version must be at least v{version}")


def _check_edits(edits: ContainerEdits) -> None:
    for line in (*edits.env, *(line for hook in edits.hooks for line in hook.env)):
        if line.find("=") <= 0 or "\0" in line:
            raise InvalidArgument(f"invalid environment variable {line!r}")
    for node in edits.device_nodes:
        if not node.path.startswith("/") or node.permissions.strip("rwm"):
            raise InvalidArgument(f"device node {node.path!r}: invalid path or permissions")
        if node.type not in ("", "b", "c", "u", "p"):
            raise InvalidArgument(f"device node {node.path!r}: invalid type {node.type!r}")
        mode_of(node)
    for mount in edits.mounts:
        if not mount.host_path or not mount.container_path.startswith("/"):
            raise InvalidArgument(
                f"mount {mount.container_path!r} of {mount.host_path!r}: invalid path"
            )
    for hook in edits.hooks:
        if not hook.path.startswith("/"):
            raise InvalidArgument(f"hook {hook.hook_name!r}: invalid path {hook.path!r}")


def mode_of(node: DeviceNode) -> int | None:
    """The mode that the file gives a node, in decimal, or in octal as YAML has it (`0660`, `0o660`).
    Raises `InvalidArgument`."""
    mode = node.file_mode
    if mode is None or isinstance(mode, int):
        found = mode
    elif re.fullmatch("0o?[0-7]{1,6}", mode):
        found = int(mode.replace("o", ""), 8)
    elif re.fullmatch("[0-9]{1,6}", mode):
        found = int(mode)
    else:
        raise InvalidArgument(f"device node {node.path!r}: invalid fileMode {mode!r}")
    if found is not None and not 0 <= found <= 0o7777:
        raise InvalidArgument(f"device node {node.path!r}: invalid fileMode {mode!r}")
    return found


class Found(msgspec.Struct, frozen=True):
    """What the files of this host have."""

    devices: dict[str, tuple[CdiFile, CdiDevice]]
    """By qualified name: `vendor.com/class=name`."""
    causes: tuple[str, ...]
    """Why devices may be missing."""


def find(directories: Sequence[Path] = DIRECTORIES) -> Found:
    """`directories`: a later one wins."""
    devices, causes = dict[str, tuple[CdiFile, CdiDevice]](), list[str]()
    for directory in directories:
        own = dict[str, list[tuple[Path, CdiFile, CdiDevice]]]()
        for path in _paths(directory, causes):
            try:
                file = read(path)
            except WeftError as error:
                causes.append(str(error))
                continue
            for device in file.devices:
                own.setdefault(f"{file.kind}={device.name}", []).append((path, file, device))
        for name, rows in own.items():
            devices.pop(name, None)
            if len(rows) > 1:
                causes.append(f"{name} is in {' and in '.join(str(path) for path, *_ in rows)}")
            else:
                devices[name] = rows[0][1:]
    return Found(devices, tuple(causes))


def _paths(directory: Path, causes: list[str]) -> list[Path]:
    try:
        found = [path for path in directory.iterdir() if path.suffix in (".yaml", ".json")]
    except FileNotFoundError:
        return []
    except OSError as error:
        causes.append(f"cannot read {directory}: {cause_of(error)}")
        return []
    if len(found) > _MOST_FILES:
        causes.append(f"{directory} has more than {_MOST_FILES} files, the others are not read")
    return sorted(found)[:_MOST_FILES]


def read(path: Path) -> CdiFile:
    """Raises `InvalidArgument` with the file, the field and the cause."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
            raise InvalidArgument(f"it is no file, or has more than {_LARGEST} bytes")
        if status.st_uid != 0 or status.st_mode & 0o022:
            raise InvalidArgument("it can be written by others than root")
        with path.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
        file = _decoded(content, path.suffix)
        file.check()
    except (OSError, ValueError, RecursionError, WeftError) as error:
        cause = cause_of(error) if isinstance(error, OSError) else error
        raise InvalidArgument(f"cannot read {path}: {cause}") from None
    return file


def _decoded(content: bytes, suffix: str) -> CdiFile:
    raw = msgspec.json.decode(content) if suffix == ".json" else yaml_subset.read(content.decode())
    # The scalars of YAML are texts here, so numbers are read from texts.
    return msgspec.convert(_without_absent(raw), CdiFile, strict=False)


def _without_absent(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_absent(item) for key, item in value.items() if item is not None}
    return [_without_absent(item) for item in value] if isinstance(value, list) else value
