"""Whether a program of this host has a port. The rules of host mode would take the port over
without a word: the program would go on listening, and hear nothing any more."""

import errno
import socket
from ipaddress import IPv4Address

from weft.errors import OperationFailed, cause_of
from weft.model.addresses import Port, Protocol

_SOCKETS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


def check_free(protocol: Protocol, port: Port, address: IPv4Address | None = None) -> None:
    """Binds the port for a moment, on one address or on all (None), in the namespace of the calling
    thread. Raises `OperationFailed` with Docker's text if that is impossible. Where the
    kernel has no SCTP no program can have such a port."""
    own = address or IPv4Address(0)
    kind, number = _SOCKETS[protocol]
    try:
        sock = socket.socket(socket.AF_INET, kind, number)
    except OSError:
        return
    with sock:
        if protocol != "udp":
            # Connections that have ended may linger at the port. Listeners are refused all the
            # same; two programs that share a UDP port by this option would not be.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((str(own), port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise OperationFailed(
                    f"failed to bind host port for {own}:{port}/{protocol}:"
                    f" {cause_of(error).lower()}"
                ) from error
