"""What a request for a container means in the version of the API that it names: what its version
has by default, what it does not have yet, and what Docker refuses instead of dropping it, because
the container would not be as its user wants it (moby 28.5.2,
api/server/router/container/container_routes.go, `postContainersCreate`). Fields that are just
dropped are in `versions.FIELDS`."""

import msgspec

from weft.api.schema.container_wire import (
    EndpointSettingsWire,
    HostConfigWire,
    NetworkingWire,
    NewContainerWire,
)
from weft.api.schema.mount import BindWire, MountWire
from weft.api.versions import Version
from weft.errors import InvalidArgument, clip
from weft.model.plain_container import has_no_networks

MAC_WARNING = (
    "The container-wide MacAddress field is now deprecated. It should be specified in"
    " EndpointsConfig instead."
)
_DEFAULT = ("", "default")


def as_of(wire: NewContainerWire, version: Version) -> NewContainerWire:
    """The request as the newest version would have it. Raises `InvalidArgument` with Docker's
    texts."""
    _check(wire, version)
    host = wire.host_config
    if version < (1, 40) and not host.ipc_mode:
        host = msgspec.structs.replace(host, ipc_mode="shareable")
    mounts = tuple(_mount(mount, version) for mount in host.mounts)
    host = msgspec.structs.replace(host, mounts=mounts)
    return _with_mac(msgspec.structs.replace(wire, host_config=host), version)


def whole_trees_are_read_only(version: Version) -> bool:
    """Whether a read-only bind makes what is mounted below it read-only, too."""
    return version >= (1, 44)


def warnings_of(wire: NewContainerWire, version: Version) -> list[str]:
    return [MAC_WARNING] if wire.mac_address and version >= (1, 44) else []


def _check(wire: NewContainerWire, version: Version) -> None:
    mounts, networks = wire.host_config.mounts, wire.networking_config.endpoints_config
    for mount in mounts:
        _check_mount(mount, version)
    if version < (1, 44) and len(networks) > 1:
        raise InvalidArgument(
            "Container cannot be created with multiple network endpoints:"
            f" {clip(', '.join(networks))}"
        )


def _check_mount(mount: MountWire, version: Version) -> None:
    bind, volume = mount.bind_options, mount.volume_options
    if version < (1, 44) and bind and bind.read_only_force_recursive:
        raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
    if version < (1, 45) and volume and volume.subpath:
        raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < (1, 48) and mount.type == "image":
        raise InvalidArgument('Mount type "Image" needs API v1.48 or newer')
    if not mount.type:
        raise InvalidArgument('invalid mount config for type "": mount type unknown')
    if version < (1, 42):
        return
    for name, type_, options in (
        ("VolumeOptions", "volume", volume),
        ("BindOptions", "bind", bind),
        ("TmpfsOptions", "tmpfs", mount.tmpfs_options),
    ):
        if options is not None and mount.type.lower() != type_:
            raise InvalidArgument(
                f'{name} must not be specified on mount type "{clip(mount.type)}"'
            )


def _mount(mount: MountWire, version: Version) -> MountWire:
    if version < (1, 42):
        kind = mount.type.lower()
        mount = msgspec.structs.replace(
            mount,
            volume_options=mount.volume_options if kind == "volume" else None,
            tmpfs_options=mount.tmpfs_options if kind == "tmpfs" else None,
        )
    if whole_trees_are_read_only(version) or mount.type.lower() != "bind" or not mount.read_only:
        return mount
    options = mount.bind_options or BindWire()
    options = msgspec.structs.replace(options, read_only_non_recursive=True)
    return msgspec.structs.replace(mount, bind_options=options)


# --- the MAC address of the whole container, which is its first network's since 1.44


def _with_mac(wire: NewContainerWire, version: Version) -> NewContainerWire:
    mac, mode = wire.mac_address, wire.host_config.network_mode
    if not mac:
        return wire
    is_alone = has_no_networks(mode)
    if is_alone and version < (1, 44):
        raise InvalidArgument("conflicting options: mac-address and the network mode")
    networks = wire.networking_config.endpoints_config
    if not is_alone:
        name = _mac_network(wire.host_config, list(networks), version)
        given = networks.get(name) or EndpointSettingsWire()
        if version >= (1, 44) and given.mac_address not in ("", mac):
            raise InvalidArgument(
                "the container-wide MAC address must match the endpoint-specific MAC address for"
                " the main network, or be left empty"
            )
        networks = networks | {name: msgspec.structs.replace(given, mac_address=mac)}
    return msgspec.structs.replace(
        wire, mac_address="", networking_config=NetworkingWire(endpoints_config=networks)
    )


def _mac_network(host: HostConfigWire, names: list[str], version: Version) -> str:
    """The network whose address it is. An older version takes the only one there is."""
    mode = "bridge" if host.network_mode in _DEFAULT else host.network_mode
    same = [name for name in names if ("bridge" if name in _DEFAULT else name) == mode]
    if same or not names:
        return same[0] if same else mode
    if version < (1, 44):
        return names[0]
    raise InvalidArgument(
        "unable to migrate container-wide MAC address to a specific network:"
        " HostConfig.NetworkMode must match the identity of a network in NetworkSettings.Networks"
    )
