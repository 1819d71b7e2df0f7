"""Connection tracking and address translation of one namespace, as far as DNAT, SNAT and replies
need them.

A connection has two tuples: `original` describes its first packet, `reply` the answer to that
packet. After translation, `reply` is not the reverse of `original`. A zone keeps connections with
equal original tuples apart; replies are always looked up in zone 0 (`ct original zone`).

The first packet of any kind begins a connection: TCP flags, timeouts and ICMP errors do not exist
here.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from weft.model.addresses import Address
from weft.model.trace import Flow, Packet

FIRST_SPARE_PORT = 50000
"""The first source port to try when two connections would have the same reply tuple."""


class Connection:
    def __init__(self, first: Packet, zone: int) -> None:
        self.zone = zone
        self.original = first
        self.reply = first.reversed()
        self.mark = 0
        self.answered = False
        self.translated: set[str] = set()
        """Holds `source` or `destination` once the chains for that address have run, whatever their
        verdict."""

    @property
    def is_dnat(self) -> bool:
        return (self.reply.source, self.reply.source_port) != (
            self.original.destination,
            self.original.destination_port,
        )

    def send_to(self, address: Address, port: int | None) -> None:
        """DNAT. If `port` is None, the port stays."""
        reply = self.reply
        self.reply = reply._replace(
            source=address, source_port=reply.source_port if port is None else port
        )

    def send_from(self, address: Address) -> None:
        """SNAT."""
        self.reply = self.reply._replace(destination=address)


class Tracked(NamedTuple):
    """A packet's place in its connection."""

    connection: Connection
    is_reply: bool

    @property
    def state(self) -> str:
        return "established" if self.is_reply or self.connection.answered else "new"

    @property
    def wire(self) -> Packet:
        """The packet after translation."""
        connection = self.connection
        return (connection.original if self.is_reply else connection.reply).reversed()


class Connections:
    def __init__(self) -> None:
        self._known: dict[tuple[int, Packet], Tracked] = {}

    def find(self, packet: Packet, zone: int = 0) -> Tracked:
        """The connection that the packet belongs to, or a new one. Only `confirm` stores a new
        one."""
        known = self._known.get((zone, packet)) or self._known.get((0, packet))
        if known is None:
            return Tracked(Connection(packet, zone), False)
        known.connection.answered |= known.is_reply
        return known

    def make_unique(self, connection: Connection) -> None:
        """Two connections must not have the same reply tuple: the later one gets another source
        port."""
        spare = FIRST_SPARE_PORT
        while self._taken(connection):
            connection.reply = connection.reply._replace(destination_port=spare)
            spare += 1

    def confirm(self, connection: Connection) -> bool:
        """Stores a connection whose first packet got through. False if another connection has the
        same reply tuple: the packet is lost."""
        if self._taken(connection):
            return False
        self._known[connection.zone, connection.original] = Tracked(connection, False)
        self._known[0, connection.reply] = Tracked(connection, True)
        return True

    def flows(self, namespace: str) -> Iterator[Flow]:
        """The connections as values."""
        for tracked in self._known.values():
            connection = tracked.connection
            if not tracked.is_reply:
                yield Flow(
                    namespace,
                    connection.zone,
                    connection.original,
                    connection.reply,
                    connection.mark,
                    tuple(sorted(connection.translated)),
                )

    def take(self, flows: Iterable[Flow]) -> None:
        """Takes over connections of an earlier walk, as `flows` gave them."""
        for flow in flows:
            connection = Connection(flow.original, flow.zone)
            connection.reply, connection.mark = flow.reply, flow.mark
            connection.translated = set(flow.translated)
            self.confirm(connection)

    def forget_answered_by(self, address: Address) -> None:
        """`conntrack -D --reply-src <address>`."""
        self._known = {k: t for k, t in self._known.items() if t.connection.reply.source != address}

    def forget_untranslated(self, protocol: str, port: int) -> None:
        """Forgets untranslated connections to the port. This is `conntrack -D -p <protocol>
        --orig-port-dst <port>`, restricted to untranslated ones."""

        def stays(tracked: Tracked) -> bool:
            asked, reply = tracked.connection.original, tracked.connection.reply
            return (asked.protocol, asked.destination_port) != (
                protocol,
                port,
            ) or reply != asked.reversed()

        self._known = {key: tracked for key, tracked in self._known.items() if stays(tracked)}

    def _taken(self, connection: Connection) -> bool:
        other = self._known.get((0, connection.reply))
        return other is not None and other.connection is not connection
