"""Netlink messages: header, flags, errors. Pure functions and values.

A request is a type, flags and a body; the socket numbers them when it sends them. The kernel
answers with replies, and with an error message per failed request (`man 7 netlink`;
`NLMSGERR_ATTR_*` for the extended acknowledgement).
"""

import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from weft.linux.netlink import attributes

HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port id."""

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLM_F_REQUEST = 1
NLM_F_ACK = 4
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1


class Request(NamedTuple):
    type: int
    flags: int
    """Without NLM_F_REQUEST and NLM_F_ACK, which the socket adds."""
    body: bytes


class Message(NamedTuple):
    type: int
    flags: int
    sequence: int
    body: bytes
    port: int = 0
    """Port id of the socket that sent the request; in a notification, of the socket whose request
    made the change."""


class NetlinkError(OSError):
    """The kernel refused a request. `errno` is as usual; `strerror` includes the kernel's own
    explanation if it gave one."""


def encode(requests: Sequence[Request], sequence: int) -> bytes:
    """Encodes all requests as one datagram, numbered from `sequence`. Only the last asks for an
    acknowledgement: the kernel answers in order and reports errors without being asked, so when the
    last is acknowledged, all others are done."""
    last = len(requests) - 1
    parts = []
    for i, request in enumerate(requests):
        parts.append(encode_one(request, sequence + i, acknowledged=i == last))
    return b"".join(parts)


def encode_one(request: Request, sequence: int, acknowledged: bool = False) -> bytes:
    type_, flags, body = request
    flags |= NLM_F_REQUEST | NLM_F_ACK if acknowledged else NLM_F_REQUEST
    return HEADER.pack(16 + len(body), type_, flags, sequence, 0) + body


TRANSACTION = 1 << 30
"""Sequence number of the message that begins a transaction: far from the numbers of other requests,
and always the same, so that many sockets can send the same encoded transaction body."""


def encode_transaction(body: Sequence[Request]) -> bytes:
    """Encodes the requests of a transaction, between its begin and end messages. The kernel
    acknowledges the last request when the whole transaction is done or undone."""
    last = TRANSACTION + len(body)
    return b"".join(
        encode_one(request, number, number == last)
        for number, request in enumerate(body, TRANSACTION + 1)
    )


def decode(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. Our senders pad bodies to four bytes, so nothing is padded
    here."""
    offset = 0
    end = len(data)
    while offset + 16 <= end:
        length, type_, flags, sequence, port = HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > end:
            break
        yield Message(type_, flags, sequence, data[offset + 16 : offset + length], port)
        offset += (length + 3) & ~3


def decode_error(message: Message) -> NetlinkError | None:
    """The error in an NLMSG_ERROR or NLMSG_DONE message; None for success."""
    if len(message.body) < 4:
        return None
    (number,) = struct.unpack_from("=i", message.body)
    if number >= 0:
        return None
    text = os.strerror(-number)
    detail = _detail(message)
    return NetlinkError(-number, f"{text} ({detail})" if detail else text)


def _detail(message: Message) -> str:
    if not message.flags & _NLM_F_ACK_TLVS:
        return ""
    offset = 4
    if message.type == NLMSG_ERROR:
        echoed: int = struct.unpack_from("=I", message.body, 4)[0]
        offset += 16 if message.flags & _NLM_F_CAPPED else (echoed + 3) & ~3
    found = attributes.decode(message.body, offset)
    return attributes.to_text(found.get(_NLMSGERR_ATTR_MSG, b""))
