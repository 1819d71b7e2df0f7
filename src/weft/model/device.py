"""A device of the host that a container may use.

Who writes it: the user, by the label `weft.devices` of the service (`labels.py`), or of a plain
container by `--device` and `--device-cgroup-rule`."""

import msgspec


class Device(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    source: str
    """Path on the host: a device node, a link to one, or a directory with device nodes."""
    target: str
    """Path in the container."""
    access: str = "rwm"
    """Letters of: r read, w write, m make further nodes of the device."""


class DeviceRule(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Devices that a container may use once it has nodes of them, which it may make itself."""

    kind: str
    """`c`, `b`, or `a` for both."""
    major: int | None = None
    """None: any."""
    minor: int | None = None
    access: str
    """As of `Device`."""

    def __str__(self) -> str:
        """As Docker writes it: `c 1:* rw`."""
        numbers = ("*" if number is None else str(number) for number in (self.major, self.minor))
        return f"{self.kind} {':'.join(numbers)} {self.access}"
