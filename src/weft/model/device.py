"""A device of the host that a container may use.

Who writes it: the user, by the label `weft.devices` of the service (`labels.py`)."""

import msgspec


class Device(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    source: str
    """Path on the host: a device node, a link to one, or a directory with device nodes."""
    target: str
    """Path in the container."""
    access: str = "rwm"
    """Letters of: r read, w write, m make further nodes of the device."""
