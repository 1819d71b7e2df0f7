"""The sockets of the calling thread's namespace that take packets: TCP sockets that listen, and UDP
sockets that are bound and not connected. For another namespace, use this through `netns`."""

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

from weft.network.trace.host import Listener

_TABLES = Path("/proc/thread-self/net")
_STATES = {"tcp": "0A", "udp": "07"}
"""TCP_LISTEN, and the state of a UDP socket that is not connected (`include/net/tcp_states.h`)."""
_ANY = "00000000"
_MAPPED = "0000000000000000FFFF0000"


def listeners() -> frozenset[Listener]:
    """Also sockets of IPv6 that take packets of IPv4."""
    return frozenset(
        listener
        for protocol, state in _STATES.items()
        for end in ("", "6")
        for listener in _of(protocol, state, _TABLES / (protocol + end))
    )


def _of(protocol: str, state: str, table: Path) -> Iterator[Listener]:
    try:
        lines = table.open()
    except OSError:
        return  # without IPv6 there is no such table
    with lines:
        next(lines, "")
        for line in lines:
            _, local, _, found, *_ = line.split()
            if found != state and protocol == "tcp":
                return  # those that listen come first
            address, _, port = local.partition(":")
            own = _address(address)
            if found == state and own is not None:
                yield Listener(protocol, own, int(port, 16))


def _address(text: str) -> IPv4Address | None:
    """`text`: each 32 bits in the machine's order; None for an address of IPv6 alone."""
    if text == _ANY * (len(text) // 8):
        return IPv4Address(0)
    if len(text) == 8 or text.startswith(_MAPPED):
        return IPv4Address(bytes.fromhex(text[-8:])[::-1])
    return None
