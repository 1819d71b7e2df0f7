"""The engine's network device: a TAP into which VXLAN traffic is routed, and out of which decrypted
datagrams come.

The device is persistent: when the engine dies, the device and the routes through it stay, and
packets to it are dropped. Where the kernel can, the device passes TCP segments in bundles (UDP
tunnel offload, Linux 6.17). A TUN cannot do that, as the kernel wants an Ethernet header on tunnel
packets. ioctls by `include/uapi/linux/if_tun.h`, `sockios.h`. Works in the caller's network
namespace, or with a device in another one.
"""

import fcntl
import os
import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Interface
from pathlib import Path

from weft.errors import OperationFailed, cause_of
from weft.linux import netns, sysctl
from weft.linux.netlink.address import add_address
from weft.linux.netlink.socket import NetlinkSocket
from weft.linux.tap import DEVICE_FILE, IFF_VNET_HDR, TUNSETPERSIST, attach
from weft.network.ownership import ESP_MAC

MAC = bytes.fromhex(ESP_MAC.replace(":", ""))
ADDRESS = IPv4Interface("127.59.17.18/32")
ETHERNET = 14
ETHERTYPE_IPV4 = b"\x08\x00"
OFFLOAD_HEADER = 24
"""struct virtio_net_hdr_v1_hash_tunnel."""

_TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454D0, 0x400454D8
_OFFLOADS = 0x01 | 0x02 | 0x80 | 0x100
"""TUN_F_CSUM, _TSO4, _UDP_TUNNEL_GSO, _UDP_TUNNEL_GSO_CSUM."""
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFMTU, _SIOCSIFHWADDR = 0x8913, 0x8914, 0x8922, 0x8924
_IFF_UP, _IFF_NOARP = 0x1, 0x80
_ARPHRD_ETHER = 1


class Tap:
    def __init__(self, device: str, offload: bool, namespace: Path | None = None) -> None:
        """Makes the device, or takes over the one that a dead engine left. `offload`: use it if the
        kernel has it. With a `namespace`, the device in it is used and not configured, since others
        made it. Raises `OperationFailed`."""
        self._device = device
        self._is_mine = namespace is None
        try:
            if namespace is not None:
                self.fd, self.header = netns.run_in(
                    namespace, lambda: _open_existing(device, offload)
                )
                return
            self.fd, self.header = _open(device, offload)
        except OSError as error:
            raise OperationFailed(
                f"cannot open device {device} of {DEVICE_FILE}: {cause_of(error)}"
            ) from error
        try:
            _configure(device)
            fcntl.ioctl(self.fd, TUNSETPERSIST, 1)
        except OSError as error:
            self.close()
            raise OperationFailed(f"cannot set up device {device}: {cause_of(error)}") from error

    def set_mtu(self, mtu: int) -> None:
        """Sets the MTU of a device that we made. Raises `OperationFailed`."""
        if not self._is_mine:
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            try:
                fcntl.ioctl(
                    channel, _SIOCSIFMTU, struct.pack("=16si20x", self._device.encode(), mtu)
                )
            except OSError as error:
                raise OperationFailed(
                    f"cannot set MTU of device {self._device} to {mtu}: {cause_of(error)}"
                ) from error

    def close(self) -> None:
        """Detaches; the device stays."""
        os.close(self.fd)


def remove(device: str) -> None:
    """Removes the device if it exists. Raises `OperationFailed`."""
    try:
        socket.if_nametoindex(device)
    except OSError:
        return
    try:
        fd, _ = _open(device, offload=False)
        fcntl.ioctl(fd, TUNSETPERSIST, 0)
        os.close(fd)
    except OSError as error:
        raise OperationFailed(f"cannot remove device {device}: {cause_of(error)}") from error


def _open_existing(device: str, offload: bool) -> tuple[int, int]:
    """Opens a device that must exist; `_open` alone would make a missing one. Raises OSError."""
    socket.if_nametoindex(device)
    return _open(device, offload)


def _open(device: str, offload: bool) -> tuple[int, int]:
    """Gives a descriptor, and the octets of offload header before a frame."""
    if offload:
        fd = _attach(device, IFF_VNET_HDR)
        with suppress(OSError):
            fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", OFFLOAD_HEADER))
            fcntl.ioctl(fd, _TUNSETOFFLOAD, _OFFLOADS)
            return fd, OFFLOAD_HEADER
        os.close(fd)
    return _attach(device, 0), 0


def _attach(device: str, flags: int) -> int:
    fd = attach(device, flags)
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)  # its last user may have left others on
    except OSError:
        os.close(fd)
        raise
    return fd


def _configure(device: str) -> None:
    # Loose, not off: the larger value of `all` and the device counts, so 0 would not help on a host
    # whose `all` is 1 or 2. Loose needs an address on the device (fib_validate_source). The address
    # is a loopback one, so that nobody takes it for one of the host.
    sysctl.write(f"net.ipv4.conf.{device}.rp_filter", "2")
    netlink = NetlinkSocket()
    try:
        for error in netlink.execute(
            [add_address(socket.if_nametoindex(device), ADDRESS)]
        ).values():
            raise error
    finally:
        netlink.close()
    with suppress(OSError):  # a host without IPv6 sends no router solicitations anyway
        sysctl.write(f"net.ipv6.conf.{device}.disable_ipv6", "1")
    name = device.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        (flags,) = struct.unpack_from(
            "=H", fcntl.ioctl(channel, _SIOCGIFFLAGS, struct.pack("=16sH22x", name, 0)), 16
        )
        # The device is never set down here: that would remove the routes through a device that a
        # dead engine left.
        fcntl.ioctl(channel, _SIOCSIFHWADDR, struct.pack("=16sH6s16x", name, _ARPHRD_ETHER, MAC))
        fcntl.ioctl(
            channel, _SIOCSIFFLAGS, struct.pack("=16sH22x", name, flags | _IFF_UP | _IFF_NOARP)
        )
