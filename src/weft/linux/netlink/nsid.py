"""The number by which one network namespace knows another: encodes the question, decodes the answer.
Pure functions. `include/uapi/linux/net_namespace.h`.

A namespace numbers those that its interfaces lead to; the kernel reports the number with the
interface (IFLA_LINK_NETNSID)."""

import struct

from weft.linux.netlink.attributes import attribute, decode
from weft.linux.netlink.message import Request

RTM_GETNSID = 90
_NETNSA_NSID, _NETNSA_FD = 1, 3
_HEADER = bytes(4)
"""Family, padded."""


def get_nsid(descriptor: int) -> Request:
    """`descriptor`: of the namespace that is asked about."""
    return Request(RTM_GETNSID, 0, _HEADER + attribute(_NETNSA_FD, struct.pack("=i", descriptor)))


def decode_nsid(body: bytes) -> int:
    """-1: the namespace that was asked knows no number for the other one."""
    found = decode(body, len(_HEADER)).get(_NETNSA_NSID)
    return int(struct.unpack("=i", found)[0]) if found is not None else -1
