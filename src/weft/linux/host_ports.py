"""Whether a program of this host has a port. The rules of host mode would take the port over
without a word: the program would go on listening, and hear nothing any more."""

import errno
import socket

from weft.errors import OperationFailed
from weft.model.addresses import Port, Protocol

_SOCKETS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


def check_free(protocol: Protocol, port: Port) -> None:
    """Binds the port on all addresses for a moment, in the namespace of the calling thread. Raises
    `OperationFailed` with the original's text if that is impossible. Where the kernel has no SCTP
    no program can have such a port."""
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
            sock.bind(("0.0.0.0", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise OperationFailed(
                    f"failed to bind host port for 0.0.0.0:{port}/{protocol}: address already in"
                    " use"
                ) from error
