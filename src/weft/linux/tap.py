"""Makes TAP interfaces and attaches to them. The interfaces are persistent: packets sent to one
without a process are dropped.

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
    """Makes the interface in the namespace of the calling thread, unless it exists. Raises
    OSError."""
    descriptor = attach(name, IFF_VNET_HDR)
    try:
        fcntl.ioctl(descriptor, TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)


def attach(name: str, flags: int = 0) -> int:
    """A descriptor to read and write the frames of the interface. `flags`: in addition to TAP and
    NO_PI. Raises OSError: EBUSY if another process is attached."""
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
