"""Whether a program of this host has a port. The rules of host mode would take the port over
without a word: the program would go on listening, and hear nothing any more."""

import errno
import socket
from ipaddress import IPv4Address, IPv6Address

from weft.errors import OperationFailed, cause_of
from weft.model.addresses import Address, Port, Protocol

_SOCKETS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


def check_free(protocol: Protocol, port: Port, address: Address | None = None) -> None:
    """Binds the port for a moment, on one address or on all of a family (None for IPv4), in the namespace of the calling
    thread. Raises `OperationFailed` with Docker's text if that is impossible. Where the
    kernel has no SCTP, or no IPv6, no program can have such a port."""
    own: Address = address if address is not None else IPv4Address(0)
    is_ipv6 = isinstance(own, IPv6Address)
    kind, number = _SOCKETS[protocol]
    try:
        sock = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, kind, number)
    except OSError:
        return
    with sock:
        if protocol != "udp":
            # Connections that have ended may linger at the port. Listeners are refused all the
            # same; two programs that share a UDP port by this option would not be.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        shown = f"[{own}]" if is_ipv6 else own
        try:
            sock.bind((str(own), port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                raise OperationFailed(
                    f"failed to bind host port for {shown}:{port}/{protocol}:"
                    f" {cause_of(error).lower()}"
                ) from error
