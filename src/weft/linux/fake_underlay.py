"""Sends packets through several `FakeKernel`s: hosts on one underlay, with everybody else behind
its router.

    underlay = FakeUnderlay()
    underlay.join("node1", kernel)
    journey = underlay.trace(Packet("tcp", client, 40000, node1, 8080))
    print(journey)                      # one line per step
    back = underlay.answer(journey)

A journey is one packet from the process that sends it (or from outside) to where it ends. Each host
walks its own part (`network/trace/walk.py`); this file is the wire between them.
"""

from typing import NamedTuple

from weft.linux.fake import UPLINK, FakeKernel
from weft.linux.fake_trace import FakeMemory, space_of
from weft.model.addresses import Address
from weft.model.trace import (
    CauseKind,
    Datagram,
    Delivered,
    Entry,
    FromProcess,
    FromWire,
    Packet,
    Passage,
    Sent,
    Stopped,
)
from weft.network.kernel_state import HOST
from weft.network.trace.host import Host
from weft.network.trace.walk import walk

OUTSIDE = "outside"
MOST_HOSTS = 16


class Place(NamedTuple):
    host: str
    namespace: str = HOST


class Step(NamedTuple):
    place: Place
    what: str
    packet: Packet

    def __str__(self) -> str:
        return f"{self.place.host:<7} {self.place.namespace:<14} {self.what:<52} {self.packet}"


class Journey:
    """A packet's way. `end`: `delivered`, `left` (to the outside), or why the packet got no
    further."""

    def __init__(self, place: Place) -> None:
        self.steps: list[Step] = []
        self.passages: list[Passage] = []
        self.place = place
        self.end = ""
        self.packet: Packet | None = None
        """The packet as it was at the end."""

    def __str__(self) -> str:
        return "\n".join(
            (*map(str, self.steps), f"{self.place.host:<7} {self.place.namespace:<14} {self.end}")
        )

    @property
    def wheres(self) -> list[str]:
        """The places on the way, in order, each once per visit: `node1/host`."""
        names = [f"{step.place.host}/{step.place.namespace}" for step in self.steps]
        return [name for name, before in zip(names, ["", *names], strict=False) if name != before]

    def did(self, what: str) -> bool:
        """Whether a step contains the text."""
        return any(what in step.what for step in self.steps)

    def shown_at(self, place: Place) -> list[Packet]:
        """The packets as they were seen there."""
        return [step.packet for step in self.steps if step.place == place]


class FakeUnderlay:
    def __init__(self) -> None:
        self.hosts: dict[str, FakeKernel] = {}

    def join(self, name: str, kernel: FakeKernel) -> None:
        self.hosts[name] = kernel

    def trace(self, packet: Packet, start: Place | None = None, via: str | None = None) -> Journey:
        """Sends a packet from a process at `start`. With None, somebody outside sends it to the
        host `via`, or to the host that has the address. A process may leave its source address to
        the kernel (`ANY`)."""
        if start is not None:
            journey = Journey(start)
            return self._follow(journey, start.host, FromProcess(start.namespace, packet))
        return self._from_outside(packet, via or self.host_of(packet.destination))

    def answer(self, journey: Journey) -> Journey:
        """Sends the answer of whom the packet reached."""
        exit = journey.passages[-1].exit
        assert not isinstance(exit, Stopped), f"nobody was reached: {journey.end}"
        if isinstance(exit, Delivered):
            return self._follow(Journey(journey.place), journey.place.host, exit.answer)
        packet = exit.datagram.packet.reversed()
        return self._from_outside(packet, self.host_of(packet.destination))

    def host_of(self, address: Address) -> str | None:
        """The host that has the address on its uplink."""
        return next(
            (name for name, kernel in self.hosts.items() if address in uplink_addresses(kernel)),
            None,
        )

    def _from_outside(self, packet: Packet, host: str | None) -> Journey:
        journey = Journey(Place(OUTSIDE, ""))
        journey.steps.append(Step(journey.place, "sends", packet))
        if host is None:
            journey.end = f"no host has {packet.destination}"
            return journey
        return self._follow(journey, host, FromWire(Datagram(packet=packet)))

    def _follow(self, journey: Journey, host: str, entry: Entry) -> Journey:
        for _ in range(MOST_HOSTS):
            passage = self._passage(journey, host, entry)
            match passage.exit:
                case Delivered(packet=packet):
                    journey.end, journey.packet = "delivered", packet
                    return journey
                case Stopped(cause):
                    if cause.kind is CauseKind.NOT_UNDERSTOOD:
                        raise ValueError(cause.missing)  # the plan has learned a new statement
                    journey.end = cause.words
                    return journey
                case Sent(neighbour=neighbour, datagram=datagram):
                    following = self.host_of(neighbour)
                    if following is None:
                        journey.place, journey.packet = Place(OUTSIDE, ""), datagram.packet
                        journey.steps.append(Step(journey.place, "arrives", datagram.packet))
                        journey.end = "left"
                        return journey
                    host, entry = following, FromWire(datagram)
        journey.end = "going in circles"
        return journey

    def _passage(self, journey: Journey, host: str, entry: Entry) -> Passage:
        spaces = self.hosts[host].spaces
        seen = Host(spaces={n: space_of(space, strict=False) for n, space in spaces.items()})
        passage = walk(seen, entry, FakeMemory(spaces))
        journey.passages.append(passage)
        for step in passage.steps:
            journey.place = Place(host, step.namespace)
            journey.steps.append(Step(journey.place, step.words, step.packet))
        return passage


def uplink_addresses(kernel: FakeKernel) -> list[Address]:
    return [address.ip for address in kernel.spaces[HOST].devices[UPLINK].addresses]
