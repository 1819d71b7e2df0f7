"""Ends TCP connections of other processes through the kernel: both ends see a reset.

A kernel without CONFIG_INET_DIAG_DESTROY refuses. `include/uapi/linux/inet_diag.h`, `sock_diag.h`.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from weft.errors import OperationFailed, cause_of
from weft.linux.netlink.message import Request
from weft.linux.netlink.socket import NETLINK_SOCK_DIAG, NetlinkSocket

_BY_FAMILY, _DESTROY = 20, 21
_REQUEST = struct.Struct("=BBBxI48s")
"""struct inet_diag_req_v2: family, protocol, extensions, states, id."""
_ID = slice(4, 52)
"""The part of struct inet_diag_msg that identifies a socket: ports, addresses, interface,
cookie."""
_PORTS = struct.Struct(">HH")
_LISTEN = 10
_ALL_BUT_LISTENING = 0xFFFFFFFF & ~(1 << _LISTEN)


def end_accepted(address: IPv4Address, port: int) -> int:
    """Ends the connections that were accepted on this address and port in the thread's namespace;
    the listening socket stays. Gives their number. Raises `OperationFailed`, also if the kernel
    cannot end connections. Not on the event loop."""
    try:
        channel = NetlinkSocket(NETLINK_SOCK_DIAG)
        try:
            ends = list(_accepted(channel, address, port))
            refused = channel.execute([Request(_DESTROY, 0, _request(id)) for id in ends])
        finally:
            channel.close()
    except OSError as error:
        raise OperationFailed(
            f"cannot end connections to {address}:{port}: {cause_of(error)}"
        ) from error
    for refusal in refused.values():
        if refusal.errno != errno.ENOENT:  # ENOENT: the connection ended by itself
            cause = cause_of(refusal)
            raise OperationFailed(f"cannot end connections to {address}:{port}: {cause}")
    return len(ends) - len(refused)


def _accepted(channel: NetlinkSocket, address: IPv4Address, port: int) -> Iterator[bytes]:
    """The identifying parts (`_ID`) of these connections."""
    for body in channel.dump(_BY_FAMILY, _request(bytes(48))):
        id = body[_ID]
        if _PORTS.unpack_from(id)[0] == port and id[4:8] == address.packed:
            yield id


def _request(id: bytes) -> bytes:
    return _REQUEST.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, _ALL_BUT_LISTENING, id)
