"""Volumes: directories of a node that outlive containers, and the mounts of one container as its
node made them.

A volume belongs to its node. It is made at a user's request or for a mount that names it, and only
a user removes it; an anonymous volume, which no user named, goes with its container.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

import msgspec

from weft.errors import InvalidArgument, clip
from weft.model.meta import Nanoseconds
from weft.model.mount import Propagation
from weft.model.service import Mount, MountType

LOCAL = "local"
"""The only driver: directories of the node itself, or what its kernel can mount."""
ANONYMOUS_LABEL = "com.docker.volume.anonymous"
MAX_NAME = 255
"""Bytes: a volume's name is the name of a directory."""
_NAME_CHARACTERS = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_OPTIONS = ("type", "o", "device", "size")
_NEEDED = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
"""For an option those that it cannot be without."""
_SIZE = re.compile(r"([0-9]{1,15})(?:\.[0-9]{1,15})? ?(?:[kmgtp]i?)?b?", re.IGNORECASE)
RPRIVATE: Propagation = "rprivate"


class Volume(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    name: str
    driver: str = LOCAL
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    options: dict[str, str] = msgspec.field(default_factory=dict)
    """The driver's: `type`, `o` and `device`, as for mount(8)."""
    created_at: Nanoseconds = 0

    @property
    def needs_mount(self) -> bool:
        """Whether the files are on a file system that has to be mounted to be used."""
        return bool(self.options.get("type") or self.options.get("device"))

    @property
    def is_anonymous(self) -> bool:
        return ANONYMOUS_LABEL in self.labels


class MountPoint(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A mount of one container, as its node made it of the user's request or the image's."""

    type: MountType
    destination: str
    """An absolute path in the container, without `.`, `..` and double slashes."""
    name: str = ""
    """The volume's."""
    source: str = ""
    """A path of the host, of a bind or a volume."""
    driver: str = ""
    """The volume's."""
    mode: str = ""
    read_only: bool = False
    propagation: Propagation = ""
    request: Mount | None = None
    """None: the image asks for a volume here."""

    @property
    def is_anonymous(self) -> bool:
        """Whether this is a volume that goes with the container."""
        return self.type == "volume" and (self.request is None or not self.request.source)

    @property
    def subpath(self) -> str:
        options = self.request.volume if self.request is not None else None
        return options.subpath if options is not None else ""

    @property
    def copies(self) -> bool:
        """Whether the volume, if it is empty, gets the image's files."""
        options = self.request.volume if self.request is not None else None
        return self.type == "volume" and not (options is not None and options.no_copy)


def clean(path: str) -> str:
    """An absolute path without `.`, `..`, double slashes and a slash at the end."""
    return "/" + posixpath.normpath(path).lstrip("/")


def point_of(mount: Mount) -> MountPoint:
    """The mount point of a request that needs no volume; for a volume, what is known before it is
    looked up."""
    options = mount.bind
    propagation: Propagation = RPRIVATE if mount.type == "bind" else ""
    return MountPoint(
        type=mount.type,
        destination=clean(mount.target),
        source=clean(mount.source) if mount.type == "bind" else "",
        name=mount.source if mount.type == "volume" else "",
        read_only=mount.read_only,
        propagation=(options.propagation if options is not None else "") or propagation,
        request=mount,
    )


def volumes_of(points: Iterable[MountPoint]) -> frozenset[str]:
    """Names of the volumes."""
    return frozenset(point.name for point in points if point.type == "volume")


def check_name(name: str) -> None:
    """Raises `InvalidArgument` with Docker's texts."""
    if len(name) == 1:
        raise InvalidArgument(
            "volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f'"{clip(name)}" includes invalid characters for a local volume name, only'
            f' "{_NAME_CHARACTERS}" are allowed. If you intended to pass a host directory, use'
            " absolute path"
        )
    if len(name) > MAX_NAME:
        raise InvalidArgument(
            f"volume name is too long: {clip(name)!r} has more than {MAX_NAME} characters"
        )


def check_options(options: Mapping[str, str]) -> None:
    """The options of the driver `local`. Raises `InvalidArgument` with Docker's texts."""
    for name, value in options.items():
        if name not in _OPTIONS:
            raise InvalidArgument(f'invalid option: "{clip(name)}"')
        if "\0" in value:
            raise InvalidArgument(f'invalid option: "{name}" has a NUL in it')
    if options.get("type") == "cifs" and options.get("device"):
        _check_cifs(options["device"])
    if "size" in options:
        _check_size(options["size"])
    for name, others in _NEEDED.items():
        missing = [other for other in others if name in options and other not in options]
        if missing:
            raise InvalidArgument(f'missing required option: "{missing[0]}"')


def _check_cifs(device: str) -> None:
    try:
        port = urlsplit(device).port
    except ValueError as error:
        raise InvalidArgument(f"error parsing mount device url: {clip(str(error))}") from error
    if port is not None:
        raise InvalidArgument("port not allowed in CIFS device URL, include 'port' in 'o='")


def _check_size(text: str) -> None:
    """A quota needs a project quota of the file system, which Weft does not set."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid size: '{clip(text)}'")
    if text.strip("0. bB"):
        raise InvalidArgument("quota size requested but no quota support")


def anonymous_name(container: str, destination: str) -> str:
    """The name of a container's own volume, 64 hexadecimal digits. A daemon that was killed between
    the volume's making and the container's makes the same container again, and finds the volume."""
    return hashlib.sha256(f"{container}\0{destination}".encode()).hexdigest()
