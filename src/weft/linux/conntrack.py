"""Forgetting flows to a backend that is gone: conntrack keeps translating a flow to the address it chose first.

Of UDP these are all flows. Of TCP those whose SYN nobody has answered: the client sends it again, after a second, and that one
is to choose anew. A connection that stands ends with its backend, by a reset or a timeout, and cannot move. Run it through `netns`
for a namespace other than the thread's own. `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.
"""

import contextlib
import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.errors import OperationFailed, cause_of
from weft.linux.netlink.attributes import attribute, decode, ipv4, nested, u8, u32
from weft.linux.netlink.message import Request
from weft.linux.netlink.socket import NETLINK_NETFILTER, NetlinkSocket

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_TUPLE_ORIG, _TUPLE_REPLY, _STATUS, _ID, _ZONE, _FILTER, _STATUS_MASK = 1, 2, 3, 12, 18, 25, 26
_REPLY_FLAGS = 2
_BY_SOURCE, _BY_PROTOCOL = 1 << 0, 1 << 3
"""`CTA_FILTER_F_*` in `net/netfilter/nf_internals.h`."""
_NESTED = 0x8000
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


def delete_stuck(*reply_sources: IPv4Address) -> None:
    """Delete the flows of the thread's namespace that these addresses answer, or should: all of UDP, of
    TCP those without an answer yet. Raises OperationFailed.

    A recent kernel looks for them itself (Linux 6.18 does): a quarter of a millisecond for each kind
    and address where its table has a quarter million buckets, nothing where there are no flows. Of
    another one all flows are read, as `find_and_delete` does.
    """
    with _channel(reply_sources) as channel:
        kinds = ((socket.IPPROTO_UDP, False), (socket.IPPROTO_TCP, True))
        errors = channel.execute([_flush(source, *kind) for source in reply_sources for kind in kinds])
        if any(error.errno == errno.EINVAL for error in errors.values()):
            _find_and_delete(channel, reply_sources)
        elif errors:
            raise next(iter(errors.values()))


def find_and_delete(*reply_sources: IPv4Address) -> None:
    """The same on any kernel: all its flows are read, which takes ten milliseconds for a table of that
    size, and microseconds for each. Not on the event loop."""
    with _channel(reply_sources) as channel:
        _find_and_delete(channel, reply_sources)


@contextlib.contextmanager
def _channel(reply_sources: Iterable[IPv4Address]) -> Iterator[NetlinkSocket]:
    try:
        with contextlib.closing(NetlinkSocket(NETLINK_NETFILTER)) as channel:
            yield channel
    except OSError as error:
        sources = ", ".join(map(str, reply_sources))
        raise OperationFailed(f"cannot delete flows to {sources}: {cause_of(error)}") from error


def _flush(source: IPv4Address, protocol: int, unanswered: bool) -> Request:
    """All flows of the protocol whose answers come from there; `unanswered`: only those that have none yet.
    A kernel that has no such filter takes it for one flow, whose tuple is not complete: EINVAL."""
    filter_ = nested(_FILTER | _NESTED, u32(_REPLY_FLAGS, _BY_SOURCE | _BY_PROTOCOL))
    address = nested(_TUPLE_IP | _NESTED, ipv4(_IP_V4_SRC, source))
    body = _GENERIC + filter_ + nested(_TUPLE_REPLY | _NESTED, address, nested(_TUPLE_PROTO | _NESTED, u8(_PROTO_NUM, protocol)))
    if unanswered:
        body += attribute(_STATUS, bytes(4)) + attribute(_STATUS_MASK, struct.pack("!I", _SEEN_REPLY))
    return Request(_DELETE, 0, body)


def _find_and_delete(channel: NetlinkSocket, reply_sources: Collection[IPv4Address]) -> None:
    packed = [source.packed for source in reply_sources]
    candidates = (body for body in channel.dump(_GET, _GENERIC) if any(source in body for source in packed))
    flows = [flow for flow in map(decode_flow, candidates) if flow is not None]
    wanted = [flow for flow in flows if flow.reply_source in reply_sources and flow.is_stuck]
    errors = channel.execute([Request(_DELETE, 0, _GENERIC + flow.key) for flow in wanted])
    for error in errors.values():
        if error.errno != errno.ENOENT:
            raise error


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
