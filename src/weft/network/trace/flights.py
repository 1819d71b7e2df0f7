"""What a packet is while a host handles it, and what the host remembers of packets.

A datagram of a tunnel has the frame in it, an ESP packet the datagram that it hides: both are
flights of their own, since each meets rules and routes where it is unwrapped.
"""

from collections.abc import Iterable

from weft.model.trace import Datagram, Flow, Frame
from weft.network.trace.conntrack import Connections
from weft.network.trace.nft import Flight


class Memory:
    """What the namespaces of a host remember of packets."""

    def __init__(self, flows: Iterable[Flow] = ()) -> None:
        """`flows`: those of an earlier walk."""
        self._connections: dict[str, Connections] = {}
        self._counters: dict[str, dict[str, int]] = {}
        for flow in flows:
            self.connections(flow.namespace).take([flow])

    def connections(self, namespace: str) -> Connections:
        return self._connections.setdefault(namespace, Connections())

    def counters(self, namespace: str) -> dict[str, int]:
        """Counters of rules with `numgen inc`, by chain and rule."""
        return self._counters.setdefault(namespace, {})

    def flows(self) -> tuple[Flow, ...]:
        return tuple(
            flow for name, known in self._connections.items() for flow in known.flows(name)
        )


class Tunnelled(Flight):
    """A VXLAN datagram with the frame in it."""

    inner: Flight


class Sealed(Flight):
    """An ESP packet with the datagram in it."""

    hidden: Flight
    spi: int


def as_datagram(flight: Flight) -> Datagram:
    """As it goes over the wire."""
    if isinstance(flight, Sealed):
        hidden = as_datagram(flight.hidden)
        return Datagram(packet=flight.packet, size=flight.size, inner=hidden, spi=flight.spi)
    if not isinstance(flight, Tunnelled):
        return Datagram(packet=flight.packet, size=flight.size)
    inner = flight.inner
    frame = Frame(inner.packet, inner.ether_source, inner.ether_destination, inner.size)
    return Datagram(packet=flight.packet, size=flight.size, vni=flight.vni, frame=frame)
