"""What a request for a container of an older version of the API cannot ask for, and Docker refuses
instead of dropping it: the container would not be as its user wants it (moby 28.5.2,
api/server/router/container/container_routes.go)."""

from weft.api.schema.container_wire import NewContainerWire
from weft.api.versions import Version
from weft.errors import InvalidArgument, clip


def check_version(wire: NewContainerWire, version: Version) -> None:
    """Raises `InvalidArgument` with Docker's texts."""
    if version < (1, 44):
        _check_before_1_44(wire)
    mounts = wire.host_config.mounts
    if version < (1, 45) and any(m.volume_options and m.volume_options.subpath for m in mounts):
        raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")


def _check_before_1_44(wire: NewContainerWire) -> None:
    mounts, networks = wire.host_config.mounts, wire.networking_config.endpoints_config
    if any(m.bind_options and m.bind_options.read_only_force_recursive for m in mounts):
        raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
    if len(networks) > 1:
        raise InvalidArgument(
            "Container cannot be created with multiple network endpoints:"
            f" {clip(', '.join(networks))}"
        )
