"""Deletes conntrack flows that changed rules would translate differently now: conntrack translates
every packet of a flow as it did the first.

`network/flows.py` decides which flows these are. Of them, every UDP flow is deleted, and every TCP
flow whose SYN is unanswered: the client repeats the SYN after a second, and the new flow chooses a
backend anew. An established connection cannot move; it ends with its backend, by a reset or a
timeout. For a namespace other than the thread's own, run this through `netns`.
`include/uapi/linux/netfilter/nfnetlink_conntrack.h`.
"""

import contextlib
import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from weft.errors import OperationFailed, cause_of
from weft.linux.netlink import attributes
from weft.linux.netlink.attributes import (
    attribute,
    decode,
    nested,
    to_address,
    u8,
    u16_network,
    u32,
)
from weft.linux.netlink.conntrack import (
    DELETE,
    GET,
    ID,
    IP_V4_SRC,
    IP_V6_SRC,
    PROTO_DST_PORT,
    PROTO_NUM,
    SEEN_REPLY,
    STATUS,
    TRANSLATED,
    TUPLE_IP,
    TUPLE_ORIG,
    TUPLE_PROTO,
    TUPLE_REPLY,
    ZONE,
)
from weft.linux.netlink.message import Request
from weft.linux.netlink.socket import NETLINK_NETFILTER, NetlinkSocket
from weft.model.addresses import Address
from weft.network.flows import Answered, Asked, Stale

_FILTER, _STATUS_MASK = 25, 26
_ORIG_FLAGS, _REPLY_FLAGS = 1, 2
_BY_SOURCE, _BY_PROTOCOL, _BY_PORT = 1 << 0, 1 << 3, 1 << 5
"""`CTA_FILTER_F_*` in `net/netfilter/nf_internals.h`."""
_NESTED = 0x8000
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_HEADER = struct.Struct("=BBH")
_NUMBERS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
MANY = 40
"""Number of filters from which on it is cheaper to read all flows once than to let the kernel
search for each."""


class Flow(NamedTuple):
    protocol: int
    family: int
    reply_source: Address
    """The address that answers: the backend, after all translation."""
    port: int
    """The destination port that the client asked for."""
    key: bytes
    """The attributes that identify the flow to the kernel."""
    answered: bool
    """Packets have gone both ways."""
    translated: bool

    @property
    def is_stuck(self) -> bool:
        """The flow's next packet would go to the same backend, although it could still go to
        another."""
        return self.protocol == socket.IPPROTO_UDP or (
            self.protocol == socket.IPPROTO_TCP and not self.answered
        )


def delete_stuck(*stale: Stale) -> None:
    """Deletes these flows of the thread's namespace: all of UDP, and of TCP those without an
    answer. Raises OperationFailed.

    A recent kernel searches for them itself (Linux 6.18 does): a quarter of a millisecond for each
    kind where its table has a quarter million buckets, no time where there are no flows. On another
    kernel all flows are read, as `find_and_delete` does.
    """
    requests = [request for each in stale for request in _flushes(each)]
    with _channel(stale) as channel:
        if len(requests) > MANY:
            _find_and_delete(channel, stale)
            return
        errors = channel.execute(requests)
        if any(error.errno == errno.EINVAL for error in errors.values()):
            _find_and_delete(channel, stale)
        elif errors:
            raise next(iter(errors.values()))


def find_and_delete(*stale: Stale) -> None:
    """Does the same on any kernel by reading all flows: ten milliseconds for a table of that size,
    and microseconds for each flow. Not on the event loop."""
    with _channel(stale) as channel:
        _find_and_delete(channel, stale)


@contextlib.contextmanager
def _channel(stale: Iterable[Stale]) -> Iterator[NetlinkSocket]:
    try:
        with contextlib.closing(NetlinkSocket(NETLINK_NETFILTER)) as channel:
            yield channel
    except OSError as error:
        which = ", ".join(map(str, stale))
        raise OperationFailed(f"cannot delete flows {which}: {cause_of(error)}") from error


def _flushes(stale: Stale) -> list[Request]:
    """Requests to delete by filter. A kernel without such filters takes each for the description of
    one flow, finds its tuple incomplete, and says EINVAL."""
    if isinstance(stale, Answered):
        is_ipv6 = stale.address.version == 6
        kind = IP_V6_SRC if is_ipv6 else IP_V4_SRC
        address = nested(TUPLE_IP | _NESTED, attributes.address(kind, stale.address))
        flags = u32(_REPLY_FLAGS, _BY_SOURCE | _BY_PROTOCOL)
        return [
            _flush(is_ipv6, flags, TUPLE_REPLY, address, u8(PROTO_NUM, protocol), mask=mask)
            for protocol, mask in ((socket.IPPROTO_UDP, 0), (socket.IPPROTO_TCP, SEEN_REPLY))
        ]
    number = _NUMBERS.get(stale.protocol)
    if number is None:
        return []
    mask = TRANSLATED | (SEEN_REPLY if stale.protocol == "tcp" else 0)
    wanted = u8(PROTO_NUM, number) + u16_network(PROTO_DST_PORT, stale.port)
    flags = u32(_ORIG_FLAGS, _BY_PROTOCOL | _BY_PORT)
    return [_flush(stale.is_ipv6, flags, TUPLE_ORIG, b"", wanted, mask=mask)]


def _flush(
    is_ipv6: bool, flags: bytes, tuple_: int, address: bytes, protocol: bytes, mask: int
) -> Request:
    """A request to delete all flows with such a tuple. `mask`: bits that the status of the flows
    must not have."""
    body = _HEADER.pack(_FAMILIES[is_ipv6], 0, 0) + nested(_FILTER | _NESTED, flags)
    body += nested(tuple_ | _NESTED, address, nested(TUPLE_PROTO | _NESTED, protocol))
    if mask:
        body += attribute(STATUS, bytes(4)) + attribute(_STATUS_MASK, struct.pack("!I", mask))
    return Request(DELETE, 0, body)


def _find_and_delete(channel: NetlinkSocket, stale: Collection[Stale]) -> None:
    sources = {each.address for each in stale if isinstance(each, Answered)}
    ports = {
        (_FAMILIES[each.is_ipv6], _NUMBERS[each.protocol], each.port)
        for each in stale
        if isinstance(each, Asked) and each.protocol in _NUMBERS
    }
    packed = [source.packed for source in sources]
    families = {_FAMILIES[source.version == 6] for source in sources} | {key[0] for key in ports}
    dumped = (
        body for each in sorted(families) for body in channel.dump(GET, _HEADER.pack(each, 0, 0))
    )
    candidates = (body for body in dumped if ports or any(source in body for source in packed))
    flows = [flow for flow in map(decode_flow, candidates) if flow is not None and flow.is_stuck]
    wanted = [
        f
        for f in flows
        if f.reply_source in sources
        or ((f.family, f.protocol, f.port) in ports and not f.translated)
    ]
    errors = channel.execute(
        [Request(DELETE, 0, _HEADER.pack(flow.family, 0, 0) + flow.key) for flow in wanted]
    )
    for error in errors.values():
        if error.errno != errno.ENOENT:
            raise error


def decode_flow(body: bytes) -> Flow | None:
    found = decode(body, _HEADER.size)
    reply = decode(found.get(TUPLE_REPLY, b""))
    protocol = decode(reply.get(TUPLE_PROTO, b"")).get(PROTO_NUM)
    addresses = decode(reply.get(TUPLE_IP, b""))
    source = addresses.get(IP_V4_SRC) or addresses.get(IP_V6_SRC)
    if not protocol or source is None:
        return None
    port = decode(decode(found.get(TUPLE_ORIG, b"")).get(TUPLE_PROTO, b"")).get(
        PROTO_DST_PORT, b"\0\0"
    )
    key = b"".join(attribute(kind, found[kind]) for kind in (TUPLE_ORIG, ZONE, ID) if kind in found)
    status = int.from_bytes(found.get(STATUS, b""), "big")
    return Flow(
        protocol[0],
        _FAMILIES[len(source) == 16],
        to_address(source),
        int.from_bytes(port, "big"),
        key,
        bool(status & SEEN_REPLY),
        bool(status & TRANSLATED),
    )
