"""One packet's way through the kernels of hosts, as values: what enters a host, the steps there, and
how the way through this host ends.

Written by the node that walks the packet through its own kernel (`network/trace/walk.py`); a manager
takes what leaves one host to the next. The state of a kernel stays on its node.
"""

from enum import StrEnum
from ipaddress import IPv4Address
from typing import NamedTuple

import msgspec

from weft.model.addresses import AnyAddress, MacAddress, Vni
from weft.model.ids import NodeId

ANY = IPv4Address(0)
"""As a source: the kernel chooses one."""
VXLAN_SOURCE_PORT = 49152
"""Of a tunnel's datagrams, as a walk has them: the kernel derives the port from a hash of the packet
that is inside."""


class Packet(NamedTuple):
    """The header fields that tell connections apart. Ports are 0 for ICMP and ESP."""

    protocol: str
    source: AnyAddress
    source_port: int
    destination: AnyAddress
    destination_port: int

    def __str__(self) -> str:
        source, destination = _written(self.source), _written(self.destination)
        return (
            f"{self.protocol} {source}:{self.source_port} > {destination}:{self.destination_port}"
        )

    @property
    def family(self) -> str:
        """`ip` or `ip6`, as nft calls it."""
        return "ip" if self.source.version == 4 else "ip6"

    def reversed(self) -> "Packet":
        return Packet(
            self.protocol, self.destination, self.destination_port, self.source, self.source_port
        )


def _written(address: AnyAddress) -> str:
    return str(address) if address.version == 4 else f"[{address}]"


class Frame(msgspec.Struct, frozen=True):
    """An Ethernet frame, as a tunnel carries it."""

    packet: Packet
    source: MacAddress
    destination: MacAddress
    size: int = 0
    """Bytes of the packet in it; 0: not known."""


class Datagram(msgspec.Struct, frozen=True, kw_only=True):
    """A packet between hosts, or between a host and the outside."""

    packet: Packet
    size: int = 0
    """Bytes; 0: not known."""
    vni: Vni | None = None
    frame: Frame | None = None
    """The frame in a VXLAN datagram."""
    inner: "Datagram | None" = None
    """The datagram that an ESP packet hides."""
    spi: int = 0
    """Of an ESP packet; 0: not known."""


# --- entries


class FromProcess(msgspec.Struct, frozen=True, tag=True):
    """A process in a namespace sends a packet."""

    namespace: str
    packet: Packet
    """With `ANY` as its source, the kernel chooses one."""
    mark: int = 0
    size: int = 0
    """Bytes; 0: as many as the interface takes by which the packet leaves."""


class FromWire(msgspec.Struct, frozen=True, tag=True):
    """A packet comes in by the interface that leads to other hosts."""

    datagram: Datagram


Entry = FromProcess | FromWire

# --- steps


class StepKind(StrEnum):
    SEND = "send"
    RECEIVE = "receive"
    MARK = "mark"
    TRANSLATE = "translate"
    """A destination or source is translated, or its translation undone."""
    ROUTE = "route"
    """The route, the neighbour, and the interface by which the packet leaves."""
    FRAME = "frame"
    """The receiver's MAC is replaced."""
    BRIDGE = "bridge"
    TUNNEL = "tunnel"
    """A frame leaves for another host."""
    DECAPSULATE = "decapsulate"
    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    ARRIVE = "arrive"


class Step(msgspec.Struct, frozen=True):
    """What one host did with the packet."""

    namespace: str
    device: str
    """Empty if no interface is concerned."""
    kind: StepKind
    words: str
    packet: Packet
    """As it was after the step."""
    facts: tuple[str, ...] = ()
    """What the step went by: the entry of a table, the other end of a veth."""
    choices: int = 1
    """Of a translation: the number of tasks among which it chose."""


# --- exits


class CauseKind(StrEnum):
    NO_NAME = "no such name"
    NO_ROUTE = "no route"
    NO_NEIGHBOUR = "no neighbour"
    NO_FORWARDING = "no forwarding entry"
    DOWN = "interface down"
    MISSING = "interface missing"
    NOT_IN_BRIDGE = "not in its bridge"
    WRONG_MAC = "wrong MAC"
    TOO_LARGE = "too large"
    RULE = "rule"
    RULES_CHANGED = "rules changed"
    REVERSE_PATH = "reverse path"
    NOT_A_ROUTER = "not a router"
    NO_LISTENER = "no listener"
    NO_KEY = "no key"
    SAME_ANSWER = "same answer"
    CIRCLE = "circle"
    NOT_UNDERSTOOD = "not understood"
    NOT_FOLLOWED = "not followed"
    """Rules of others, or state that a walk knows nothing about."""


class Cause(msgspec.Struct, frozen=True):
    """Why a packet got no further, or why another one would not."""

    kind: CauseKind
    namespace: str
    """Where the fault is, which may be beyond the last step."""
    device: str
    words: str
    """What happened to the packet."""
    missing: str = ""
    """What is missing or wrong."""
    repair: str = ""
    """What would repair it."""

    def __str__(self) -> str:
        return f"{self.words}: {self.missing}" if self.missing else self.words


class Delivered(msgspec.Struct, frozen=True, tag=True):
    """To a process in a namespace."""

    namespace: str
    packet: Packet
    mark: int
    answer: FromProcess
    """The answer of a server there that is bound to no address."""


class Sent(msgspec.Struct, frozen=True, tag=True):
    """Out of the host, to a neighbour."""

    device: str
    neighbour: AnyAddress
    datagram: Datagram

    @property
    def answer(self) -> FromWire:
        """The answer of somebody outside."""
        return FromWire(Datagram(packet=self.datagram.packet.reversed()))


class Stopped(msgspec.Struct, frozen=True, tag=True):
    cause: Cause


Exit = Delivered | Sent | Stopped


class Flow(msgspec.Struct, frozen=True):
    """A connection that a packet began in one namespace, for the answer's way."""

    namespace: str
    zone: int
    original: Packet
    reply: Packet
    mark: int
    translated: tuple[str, ...]


class Asked(msgspec.Struct, frozen=True):
    """A name, as the resolver of the sender would answer it."""

    name: str
    addresses: tuple[IPv4Address, ...] | None
    """None: no network of the sender knows the name."""


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A packet's way through one host."""

    steps: tuple[Step, ...]
    exit: Exit
    remarks: tuple[Cause, ...] = ()
    """What did not stop this packet, but would stop others or may be wrong."""
    flows: tuple[Flow, ...] = ()
    labels: dict[str, str] = {}
    """Namespaces on the way by what they are for: a container's name, a network's."""
    asked: Asked | None = None
    """The name that was looked up first."""


# --- all hosts


class TraceWanted(msgspec.Struct, frozen=True, kw_only=True):
    """A trace as a user asks for it."""

    source: str = ""
    """Task, service, container, node, or the address of one. Empty with `outside`."""
    target: str
    """The same, or a name, or `node:port`."""
    port: int = 0
    """0: the one that is known for the target."""
    protocol: str = "tcp"
    outside: IPv4Address | None = None
    """The address of somebody outside who sends the packet."""
    probe: bool = False
    """Send a marked packet along the way."""


class Leg(msgspec.Struct, frozen=True):
    """The part of a trace on one host."""

    id: NodeId
    node: str
    """The host's name."""
    passage: Passage | None
    failure: str = ""
    """Why there is no passage."""


class Finding(msgspec.Struct, frozen=True):
    """A cause and the host where it is."""

    node: str
    place: str
    """What the namespace is for, or its name."""
    cause: Cause


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A packet's way over all hosts, and that of its answer."""

    out: tuple[Leg, ...]
    back: tuple[Leg, ...] = ()
    """Empty if the packet did not arrive."""
    arrived: bool = False
    """Both have arrived."""
    verdict: str = ""
    findings: tuple[Finding, ...] = ()
