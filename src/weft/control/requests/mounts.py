"""Checks of mounts before a node sees them; the texts are Docker's (moby
daemon/volume/mounts/linux_parser.go, and daemon/volumes_unix.go for the options that exclude each
other). Docker Swarm accepts most of these mistakes, and then the tasks fail."""

from collections.abc import Iterable, Sequence

from weft.errors import InvalidArgument, clip
from weft.model.mount import BindOptions, VolumeOptions
from weft.model.service import Mount
from weft.model.volume import check_name, check_options, clean

TMPFS_OPTIONS = ("exec", "noexec")
_BACKSLASH = "\\"


def validate_mounts(mounts: Sequence[Mount]) -> None:
    """Raises `InvalidArgument`."""
    seen = set()
    for mount in mounts:
        try:
            _validate(mount)
        except InvalidArgument as error:
            raise InvalidArgument(
                f'invalid mount config for type "{mount.type}": {error}'
            ) from error
        if clean(mount.target) in seen:
            raise InvalidArgument(f"ContainerSpec: duplicate mount point: {mount.target}")
        seen.add(clean(mount.target))


def _validate(mount: Mount) -> None:
    _validate_exclusive(mount)
    if not mount.target:
        raise InvalidArgument("field Target must not be empty")
    if any("\0" in text for text in (mount.target, mount.source)):
        raise InvalidArgument("a path has a NUL in it")
    if clean(mount.target.replace(_BACKSLASH, "/")) == "/" and mount.target[0] in "/.\\":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    _validate_absolute(mount.target)
    match mount.type:
        case "bind":
            _validate_bind(mount, mount.bind or BindOptions())
        case "volume":
            _validate_volume(mount.source, mount.volume or VolumeOptions())
        case "tmpfs":
            if mount.source:
                raise InvalidArgument("field Source must not be specified")
            _validate_tmpfs(mount.tmpfs_options)


def _validate_exclusive(mount: Mount) -> None:
    """Options belong to one type."""
    tmpfs = mount.tmpfs_size or mount.tmpfs_mode or mount.tmpfs_options
    for name, type_, is_given in (
        ("BindOptions", "bind", mount.bind is not None),
        ("VolumeOptions", "volume", mount.volume is not None),
        ("TmpfsOptions", "tmpfs", bool(tmpfs)),
    ):
        if is_given and mount.type != type_:
            raise InvalidArgument(f"field {name} must not be specified")


def _validate_absolute(path: str) -> None:
    if not path.replace(_BACKSLASH, "/").startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{clip(path)}' mount path must be absolute")


def _validate_bind(mount: Mount, options: BindOptions) -> None:
    if not mount.source:
        raise InvalidArgument("field Source must not be empty")
    _validate_absolute(mount.source)
    for name, is_given in (
        ("ReadOnlyNonRecursive", options.read_only_non_recursive),
        ("ReadOnlyForceRecursive", options.read_only_force_recursive),
    ):
        if is_given and not mount.read_only:
            raise InvalidArgument(f"mount options conflict: !ReadOnly && BindOptions.{name}")
    if options.read_only_non_recursive and options.read_only_force_recursive:
        raise InvalidArgument(
            "mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive"
        )


def _validate_volume(source: str, options: VolumeOptions) -> None:
    if source.startswith("/"):
        raise InvalidArgument(
            f"invalid volume mount source, must not be an absolute path: {clip(source)}"
        )
    if options.subpath and not source:
        raise InvalidArgument("must not set Subpath when using anonymous volumes")
    if options.subpath and not _is_local(options.subpath):
        raise InvalidArgument("subpath must be a relative path within the volume")
    if source:
        check_name(source)
    if options.driver is not None:
        check_options(options.driver.options)


def _is_local(path: str) -> bool:
    """Whether a relative path stays below the place where it starts, by its text."""
    depth = 0
    for part in path.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return False
    return not path.startswith("/") and "\0" not in path


def _validate_tmpfs(options: Iterable[Sequence[str]]) -> None:
    for option in options:
        if not 1 <= len(option) <= 2:
            raise InvalidArgument("invalid option array length")
        if option[0] not in TMPFS_OPTIONS:
            raise InvalidArgument(f"invalid option: {clip(option[0])}")
