"""Forgetting flows to a backend that is gone: conntrack keeps translating a flow to the address it chose first.

Of UDP these are all flows. Of TCP those whose SYN nobody has answered: the client sends it again, after a second, and that one
is to choose anew. A connection that stands ends with its backend, by a reset or a timeout, and cannot move. Run it through `netns`
for a namespace other than the thread's own. `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.
"""

import errno
import socket
import struct
from collections.abc import Collection
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.errors import OperationFailed, cause_of
from weft.linux.netlink.attributes import attribute, decode
from weft.linux.netlink.message import NetlinkError, Request
from weft.linux.netlink.socket import NETLINK_NETFILTER, NetlinkSocket

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _ID, _ZONE = 1, 2, 3, 12, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_IP_V4_SRC = 1
_PROTO_NUM = 1
_SEEN_REPLY = 1 << 1
"""In the status, big-endian: a packet has come back."""
_GENERIC = struct.pack("=BBH", socket.AF_INET, 0, 0)


class Flow(NamedTuple):
    protocol: int
    reply_source: IPv4Address
    """Who answers: the backend, behind all translation."""
    key: bytes
    """The attributes by which the kernel knows the flow."""
    answered: bool
    """Packets have gone both ways."""

    @property
    def is_stuck(self) -> bool:
        """It would go on to ask for the same backend, and need not."""
        return self.protocol == socket.IPPROTO_UDP or (self.protocol == socket.IPPROTO_TCP and not self.answered)


def delete_stuck(*reply_sources: IPv4Address) -> int:
    """Delete the flows of the thread's namespace that these addresses answer, or should: all of UDP, of TCP those without an
    answer yet. Gives their number. Raises OperationFailed.

    Reads the whole table: milliseconds for the table of the kernel, microseconds per flow. Not on the event loop.
    """
    try:
        return _delete_stuck(set(reply_sources))
    except OSError as error:
        sources = ", ".join(map(str, reply_sources))
        raise OperationFailed(f"cannot delete flows to {sources}: {cause_of(error)}") from error


def _delete_stuck(reply_sources: Collection[IPv4Address]) -> int:
    packed = [source.packed for source in reply_sources]
    channel = NetlinkSocket(NETLINK_NETFILTER)
    try:
        candidates = (body for body in channel.dump(_GET, _GENERIC) if any(source in body for source in packed))
        flows = [flow for flow in map(decode_flow, candidates) if flow is not None]
        wanted = [flow for flow in flows if flow.reply_source in reply_sources and flow.is_stuck]
        errors = channel.execute([Request(_DELETE, 0, _GENERIC + flow.key) for flow in wanted])
        for error in errors.values():
            if error.errno != errno.ENOENT:
                raise NetlinkError(error.errno, cause_of(error))
        return len(wanted) - len(errors)
    finally:
        channel.close()


def decode_flow(body: bytes) -> Flow | None:
    found = decode(body, len(_GENERIC))
    reply = decode(found.get(_TUPLE_REPLY, b""))
    protocol = decode(reply.get(_TUPLE_PROTO, b"")).get(_PROTO_NUM)
    source = decode(reply.get(_TUPLE_IP, b"")).get(_IP_V4_SRC)
    if not protocol or source is None:
        return None
    key = b"".join(attribute(kind, found[kind]) for kind in (_TUPLE_ORIG, _ZONE, _ID) if kind in found)
    status = int.from_bytes(found.get(_STATUS, b""), "big")
    return Flow(protocol[0], IPv4Address(source), key, bool(status & _SEEN_REPLY))
