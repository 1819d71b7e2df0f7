"""TAP interfaces: made persistent here, so that what is sent to one whose process is gone goes
nowhere, and attached to there.

Numbers: `include/uapi/linux/if_tun.h`.
"""

import fcntl
import os
import struct

DEVICE_FILE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000


def make(name: str) -> None:
    """Makes the interface in the namespace of the calling thread. One that is there already is
    fine. Raises OSError."""
    descriptor = attach(name, IFF_VNET_HDR)
    try:
        fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def attach(name: str, flags: int = 0) -> int:
    """A descriptor at which the frames of the interface are read and written. `flags`: beside TAP
    and NO_PI. Raises OSError: EBUSY if another process is attached."""
    descriptor = os.open(DEVICE_FILE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(
            descriptor,
            _TUNSETIFF,
            struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | flags),
        )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
