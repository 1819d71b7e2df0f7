"""The options of a mount, as a user gives them with the mount's type."""

from typing import Literal

import msgspec

Propagation = Literal["", "private", "rprivate", "shared", "rshared", "slave", "rslave"]
"""Which of the two sides sees mounts that the other makes below the mount later. Empty: rprivate,
neither of them."""


class BindOptions(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    propagation: Propagation = ""
    non_recursive: bool = False
    """The container does not see what is mounted below the source."""
    create_mountpoint: bool = False
    """A source that is missing is made, as a directory."""
    read_only_non_recursive: bool = False
    """Of a read-only mount: what is mounted below the source stays writable."""
    read_only_force_recursive: bool = False
    """Of a read-only mount: an error on a host that cannot make what is mounted below the source
    read-only as well. Without it, such a host does without."""


class VolumeDriver(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str = ""
    options: dict[str, str] = msgspec.field(default_factory=dict)


class VolumeOptions(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    no_copy: bool = False
    """An empty volume does not get the files that the image has at the mount's target."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """Labels of the volume, if the mount makes it."""
    driver: VolumeDriver | None = None
    """Driver and options of the volume, if the mount makes it."""
    subpath: str = ""
    """A directory or file in the volume, which is mounted instead of the whole."""
