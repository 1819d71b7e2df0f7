"""A netlink socket: sends requests, hundreds at a time, and collects the kernel's answers.
Blocking, but never for long.

The kernel handles a datagram of requests while `send` runs, so the answers are there when `send`
returns. A socket always belongs to the namespace of the thread that opened it, whichever thread
uses it (`weft.linux.netns` opens them).
"""

import socket
from collections.abc import Sequence

from weft.linux.netlink.message import (
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    TRANSACTION,
    Message,
    NetlinkError,
    Request,
    decode,
    decode_error,
    encode,
    encode_one,
)

NETLINK_ROUTE = 0
NETLINK_SOCK_DIAG = 4
NETLINK_XFRM = 6
NETLINK_NETFILTER = 12

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NETLINK_GET_STRICT_CHK = 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33

BUFFER = 4 << 20
"""Sizes of both buffers in bytes. There is room for the errors of a whole batch, for the
notifications of some thousand changes, and for a transaction of some thousand elements, which is
one datagram."""
_CHUNK = 256
"""Requests per datagram: more gain nothing (measured), and a datagram must fit in the send buffer
of 208 KiB."""
_DUMP_ATTEMPTS = 5


class NetlinkSocket:
    """Sends requests and receives answers. Not for two threads at once."""

    def __init__(
        self,
        protocol: int = NETLINK_ROUTE,
        groups: Sequence[int] = (),
        blocking: bool = True,
        buffer: int = BUFFER,
    ) -> None:
        """`buffer`: bytes that may wait to be received."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._sequence = 1
        self.port = 0
        """Port id by which the kernel knows the socket. Notifications of changes carry the port of
        the socket that made the change."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            if protocol == NETLINK_ROUTE:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER)
            self._socket.bind((0, 0))
            self.port = self._socket.getsockname()[0]
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
            self._socket.setblocking(blocking)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> bytes:
        """Receives one datagram. Raises BlockingIOError on a non-blocking socket that has none,
        OSError(ENOBUFS) if some were lost."""
        return self._socket.recv(1 << 17)

    def execute(self, requests: Sequence[Request]) -> dict[int, NetlinkError]:
        """Carries out all requests in order. Gives the errors by position in `requests`; the other
        requests succeeded."""
        errors: dict[int, NetlinkError] = {}
        for start in range(0, len(requests), _CHUNK):
            chunk = requests[start : start + _CHUNK]
            for message in self._exchange(chunk):
                error = decode_error(message) if message.type == NLMSG_ERROR else None
                if error is not None:
                    errors[start + message.sequence - self._sequence + len(chunk)] = error
        return errors

    def transact(self, begin: Request, body: bytes, count: int, end: Request) -> None:
        """Carries out a transaction: all of it or nothing. `body`: `count` requests, encoded by
        `encode_transaction`. Raises NetlinkError with the kernel's first error."""
        last = TRANSACTION + count
        self._socket.send(encode_one(begin, TRANSACTION) + body + encode_one(end, last + 1))
        objection: NetlinkError | None = None
        while True:
            for message in decode(self.receive()):
                if not TRANSACTION <= message.sequence <= last:
                    continue
                error = decode_error(message) if message.type == NLMSG_ERROR else None
                objection = objection or error
                if message.sequence == last or (error and message.sequence == TRANSACTION):
                    if objection:
                        raise objection
                    return

    def ask(self, request: Request) -> bytes:
        """The body of the one reply. Raises NetlinkError."""
        reply = b""
        for message in self._exchange([request]):
            if message.type != NLMSG_ERROR:
                reply = message.body
            elif error := decode_error(message):
                raise error
        return reply

    def dump(self, type_: int, body: bytes) -> list[bytes]:
        """The bodies of all objects. A dump that a change interrupted is repeated. Raises
        NetlinkError."""
        for _ in range(_DUMP_ATTEMPTS):
            found, consistent = self._dump_once(Request(type_, NLM_F_DUMP, body))
            if consistent:
                break
        return found

    def dump_first(self, type_: int, body: bytes, most: int) -> tuple[list[bytes], bool]:
        """The bodies of the first objects, about `most` of them, and whether these are all. If not,
        the socket is good for nothing else. Raises NetlinkError."""
        sequence = self._send([Request(type_, NLM_F_DUMP, body)])
        found: list[bytes] = []
        while len(found) < most:
            for message in decode(self.receive()):
                if message.sequence != sequence:
                    continue
                if message.type not in (NLMSG_DONE, NLMSG_ERROR):
                    found.append(message.body)
                elif error := decode_error(message):
                    raise error
                else:
                    return found, True
        return found, False

    def _dump_once(self, request: Request) -> tuple[list[bytes], bool]:
        sequence = self._send([request])
        found: list[bytes] = []
        consistent = True
        while True:
            for message in decode(self.receive()):
                if message.sequence != sequence:
                    continue
                consistent = consistent and not message.flags & NLM_F_DUMP_INTR
                if message.type not in (NLMSG_DONE, NLMSG_ERROR):
                    found.append(message.body)
                    continue
                if error := decode_error(message):
                    raise error
                return found, consistent

    def _exchange(self, requests: Sequence[Request]) -> list[Message]:
        """All answers of the kernel to these requests, up to the acknowledgement of the last."""
        first = self._send(requests)
        last = first + len(requests) - 1
        answers = []
        while True:
            for message in decode(self.receive()):
                if not first <= message.sequence <= last:
                    continue
                answers.append(message)
                if message.type == NLMSG_ERROR and message.sequence == last:
                    return answers

    def _send(self, requests: Sequence[Request]) -> int:
        first = self._sequence
        self._sequence += len(requests)
        self._socket.send(encode(requests, first))
        return first
