"""Devices of this host that a container gets by the help of a driver (`--gpus`, `--device` with a
CDI name).

Who writes it: the user who makes a container. Whether there is such a driver, and such a device, is
found out at each start, as in Docker."""

import msgspec


class DeviceRequest(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    driver: str = ""
    """Empty: any that has the capabilities."""
    count: int = 0
    """-1: all."""
    ids: tuple[str, ...] = ()
    """Of the driver `cdi`: `vendor.com/class=name`."""
    capabilities: tuple[tuple[str, ...], ...] = ()
    """One of these sets."""
    options: dict[str, str] = msgspec.field(default_factory=dict)
