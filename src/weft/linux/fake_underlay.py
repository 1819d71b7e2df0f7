"""Sends packets through several `FakeKernel`s: hosts on one underlay, with everybody else behind
its router.

    underlay = FakeUnderlay()
    underlay.join("node1", kernel)
    journey = underlay.trace(Packet("tcp", client, 40000, node1, 8080))
    print(journey)                      # one line per step
    back = underlay.answer(journey)

A journey is one packet from the process that sends it (or from outside) to where it ends. This file
has devices, bridges and tunnels; fake_stack.py has the IP layer of a namespace. ARP requests are
answered but not shown; bridges know the MACs behind each port. There are no fragments, no timing,
no queues. Only the rules and tables that were applied have an effect.
"""

import functools
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.linux import fake_stack as ip
from weft.linux.fake import UPLINK, FakeKernel
from weft.linux.fake_namespace import Device, FakeNamespace
from weft.linux.fake_stack import LOOPBACK, End
from weft.model.addresses import MacAddress
from weft.network.kernel_state import HOST, Bridge, Tap, Veth, Vxlan
from weft.network.trace.conntrack import Packet
from weft.network.trace.nft import Flight

OUTSIDE = "outside"
ROUTER_MAC: MacAddress = "0a:59:00:00:00:00"
MOST_STEPS = 100
VXLAN_SOURCE_PORT = 49152
"""The kernel derives the port from a hash of the inner packet."""


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
        self.place = place
        self.end = ""
        self.packet: Packet | None = None
        """The packet as it was at the end."""
        self.mark = 0

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


class Tunnelled(Flight):
    """A VXLAN datagram with the frame in it."""

    inner: Flight


class FakeUnderlay:
    def __init__(self) -> None:
        self.hosts: dict[str, FakeKernel] = {}

    def join(self, name: str, kernel: FakeKernel) -> None:
        self.hosts[name] = kernel

    def trace(self, packet: Packet, start: Place | None = None, via: str | None = None) -> Journey:
        """Sends a packet from a process at `start`. With None, somebody outside sends it to the
        host `via`, or to the host that has the address. A process may leave its source address to
        the kernel (`ip.ANY`)."""
        walk = _Walk(self, start or Place(OUTSIDE, via or ""))
        return walk.run(packet, 0)

    def answer(self, journey: Journey) -> Journey:
        """Sends the answer of a server bound to 0.0.0.0 from where the journey ended. TCP answers
        with the mark of the request where `tcp_fwmark_accept` says so, and from the address that
        was asked; UDP leaves its source to the kernel."""
        assert journey.packet is not None, f"nobody was reached: {journey.end}"
        packet = journey.packet.reversed()
        walk = _Walk(self, journey.place)
        if journey.end == "left":
            return walk.run(packet, 0)
        space = self.hosts[journey.place.host].spaces[journey.place.namespace]
        if packet.protocol == "udp":
            packet = packet._replace(source=ip.ANY)
        accepts = packet.protocol == "tcp" and space.sysctl("net.ipv4.tcp_fwmark_accept") == "1"
        return walk.run(packet, journey.mark if accepts else 0)

    def host_of(self, address: IPv4Address) -> str | None:
        """The host that has the address on its uplink."""
        return next(
            (name for name, kernel in self.hosts.items() if address in _uplink_addresses(kernel)),
            None,
        )


def _uplink_addresses(kernel: FakeKernel) -> list[IPv4Address]:
    return [a.ip for a in kernel.spaces[HOST].devices[UPLINK].addresses]


class _Walk:
    """A journey in progress."""

    def __init__(self, underlay: FakeUnderlay, start: Place) -> None:
        self.underlay = underlay
        self.journey = Journey(start)
        self.host = start.host

    def run(self, packet: Packet, mark: int) -> Journey:
        start = self.journey.place
        try:
            if start.host == OUTSIDE:
                self._from_outside(packet)
            else:
                space = self.underlay.hosts[self.host].spaces[start.namespace]
                flight = self._flight(space, packet)
                flight.mark = mark
                self._send(space, flight)
        except End as end:
            self.journey.end = str(end)
        return self.journey

    # --- the IP layers on the way

    def _send(self, space: FakeNamespace, flight: Flight) -> None:
        """Sends a packet of a local process. If rules change its mark or destination, the route is
        looked up again."""
        self._at(space, "sends", flight)
        hop = self._route(space, flight, LOOPBACK)
        if flight.packet.source == ip.ANY:
            flight.packet = flight.packet._replace(source=hop.source)
        before = (flight.mark, flight.packet.destination)
        flight.output = hop.device
        ip.hook(space, "output", flight, functools.partial(self._note, space, flight))
        if (flight.mark, flight.packet.destination) != before:
            hop = self._route(space, flight, LOOPBACK)
        self._leave(space, flight, hop)

    def _receive_packet(self, space: FakeNamespace, device: str, flight: Flight) -> None:
        flight.input, flight.output = device, ""
        note = functools.partial(self._note, space, flight)
        self._at(space, f"in by {device}", flight)
        ip.hook(space, "prerouting", flight, note)
        ip.check_source(space, flight.packet, flight.mark, device)
        hop = self._route(space, flight, device)
        if hop.device == LOOPBACK:
            ip.hook(space, "input", flight, note)
            ip.confirm(space, flight)
            self._deliver(space, flight)
        elif space.sysctl("net.ipv4.ip_forward") != "1":
            raise End("dropped: not a router")
        else:
            flight.output = hop.device
            ip.hook(space, "forward", flight, note)
            self._leave(space, flight, hop)

    def _leave(self, space: FakeNamespace, flight: Flight, hop: ip.Hop) -> None:
        flight.output = hop.device
        table = f", table {hop.table}" if hop.table not in (254, 255) else ""
        ip.hook(space, "postrouting", flight, functools.partial(self._note, space, flight))
        self._at(space, f"out by {hop.device} to {hop.neighbour}{table}", flight)
        ip.confirm(space, flight)
        if hop.device == LOOPBACK:
            self._receive_packet(space, LOOPBACK, flight)
            return
        device = space.devices[hop.device]
        mac = self._resolve(device, hop.neighbour)
        if mac is None:
            raise End(f"no host has {hop.neighbour} behind {hop.device}")
        flight.ether_source, flight.ether_destination = device.mac, mac
        ip.egress(space, flight, functools.partial(self._note, space, flight))
        self._transmit(device, flight)

    def _deliver(self, space: FakeNamespace, flight: Flight) -> None:
        """Delivers to a process, or to the VXLAN device that has its socket here."""
        if isinstance(flight, Tunnelled):
            self._decapsulate(space, flight)
            return
        self._at(space, "arrives", flight)
        self.journey.packet, self.journey.mark = flight.packet, flight.mark
        raise End("delivered")

    def _route(self, space: FakeNamespace, flight: Flight, input: str) -> ip.Hop:
        hop = ip.look_up(space, flight.packet, flight.mark, input)
        if hop is None:
            raise End(f"no route to {flight.packet.destination}")
        return hop

    # --- frames

    def _transmit(self, device: Device, flight: Flight) -> None:
        if not device.up:
            raise End(f"{device} is down")
        if isinstance(device.kind, Bridge):
            self._bridge(device, None, flight)
        elif isinstance(device.kind, Veth):
            assert device.peer is not None
            self._receive_frame(device.peer, self._fresh(device.peer.space, flight))
        elif device.name == UPLINK:
            self._wire(flight)
        else:
            self._engine(device.space, flight)

    def _receive_frame(self, device: Device, flight: Flight) -> None:
        if not device.up:
            raise End(f"{device} is down")
        if device.master is not None:
            self._bridge(device.master, device, flight)
        elif flight.ether_destination != device.mac:
            raise End(
                f"dropped: frame to {flight.ether_destination} at {device}, which is {device.mac}"
            )
        else:
            self._receive_packet(device.space, device.name, flight)

    def _bridge(self, bridge: Device, port: Device | None, flight: Flight) -> None:
        space = bridge.space
        if not bridge.up:
            raise End(f"{bridge} is down")
        if (
            port is not None
            and port.port.locked
            and (port.name, flight.ether_source) not in space.forwarding
        ):
            raise End(f"dropped: {flight.ether_source} is not behind {port}")
        if port is not None:
            ip.ingress(space, port, flight, functools.partial(self._note, space, flight))
        if port is not None and flight.ether_destination == bridge.mac:
            self._receive_packet(space, bridge.name, flight)
            return
        for other in _ports(bridge, port):
            if (
                isinstance(other.kind, Veth)
                and other.peer is not None
                and other.peer.mac == flight.ether_destination
            ):
                self._at(
                    space, f"{bridge.name}: {port.name if port else 'own'} to {other.name}", flight
                )
                self._transmit(other, flight)
            entry = space.forwarding.get((other.name, flight.ether_destination))
            if isinstance(other.kind, Vxlan) and entry is not None and entry.vtep is not None:
                self._at(
                    space,
                    f"{bridge.name}: {port.name if port else 'own'} to {other.name}, host"
                    f" {entry.vtep}",
                    flight,
                )
                self._encapsulate(other, other.kind, entry.vtep, flight)
        raise End(f"dropped: no port of {bridge} leads to {flight.ether_destination}")

    def _resolve(self, device: Device, address: IPv4Address) -> MacAddress | None:
        """Answers from the permanent neighbours, then by ARP."""
        known = device.space.neighbours.get((device.name, address))
        if known is not None:
            return known.mac
        if device.name == UPLINK:
            name = self.underlay.host_of(address)
            return (
                self.underlay.hosts[name].spaces[HOST].devices[UPLINK].mac if name else ROUTER_MAC
            )
        if isinstance(device.kind, Tap):
            return device.mac
        if isinstance(device.kind, Bridge):
            return _ask_ports(device, None, address)
        return _ask(device.peer, address) if device.peer else None

    # --- between hosts

    def _encapsulate(self, device: Device, kind: Vxlan, vtep: IPv4Address, frame: Flight) -> None:
        """Encapsulates (RFC 7348). The datagram is sent from the namespace of the device's
        socket."""
        kernel = self.underlay.hosts[self.host]
        socket = kernel.spaces[kind.socket]
        packet = Packet("udp", kind.local, VXLAN_SOURCE_PORT, vtep, kind.port)
        outer = Tunnelled(packet, socket.is_local, socket.counters)
        outer.inner, outer.vni = frame, kind.vni
        self._send(socket, outer)

    def _decapsulate(self, space: FakeNamespace, outer: Tunnelled) -> None:
        for other in self.underlay.hosts[self.host].spaces.values():
            for device in other.devices.values():
                kind, port = device.kind, outer.packet.destination_port
                if isinstance(kind, Vxlan) and (kind.socket, kind.vni, kind.port) == (
                    space.name,
                    outer.vni,
                    port,
                ):
                    self._at(other, f"in by {device.name}, VNI {kind.vni}", outer.inner)
                    self._receive_frame(device, self._fresh(other, outer.inner))
        raise End(f"dropped: nobody here has VNI {outer.vni}")

    def _wire(self, flight: Flight) -> None:
        for name, kernel in self.underlay.hosts.items():
            uplink = kernel.spaces[HOST].devices[UPLINK]
            if uplink.mac == flight.ether_destination:
                self.host = name
                self._receive_frame(uplink, self._fresh(kernel.spaces[HOST], flight))
        self.journey.place, self.journey.packet = Place(OUTSIDE, ""), flight.packet
        self.journey.steps.append(Step(self.journey.place, "arrives", flight.packet))
        raise End("left")

    def _engine(self, space: FakeNamespace, flight: Flight) -> None:
        """Hands a packet to the process that reads the interface, the ESP engine, which brings it
        to the engine on the other host."""
        name = self.underlay.host_of(flight.packet.destination)
        there = self.underlay.hosts[name].spaces.get(space.name) if name else None
        if name is None or there is None:
            raise End(f"dropped by the ESP engine: no engine at {flight.packet.destination}")
        self._at(space, "sealed", flight)
        self.host = name
        self._receive_packet(there, flight.output, self._fresh(there, flight))

    def _from_outside(self, packet: Packet) -> None:
        name = self.journey.place.namespace or self.underlay.host_of(packet.destination)
        self.journey.place = Place(OUTSIDE, "")
        self.journey.steps.append(Step(self.journey.place, "sends", packet))
        if name is None:
            raise End(f"no host has {packet.destination}")
        self.host = name
        space = self.underlay.hosts[name].spaces[HOST]
        flight = self._flight(space, packet)
        flight.ether_source, flight.ether_destination = ROUTER_MAC, space.devices[UPLINK].mac
        self._receive_frame(space.devices[UPLINK], flight)

    # ---

    def _flight(self, space: FakeNamespace, packet: Packet) -> Flight:
        return Flight(packet, space.is_local, space.counters)

    def _fresh(self, space: FakeNamespace, flight: Flight) -> Flight:
        """Copies a flight for another namespace, without its mark and connection."""
        fresh = type(flight)(flight.packet, space.is_local, space.counters)
        fresh.ether_source, fresh.ether_destination, fresh.vni = (
            flight.ether_source,
            flight.ether_destination,
            flight.vni,
        )
        if isinstance(fresh, Tunnelled) and isinstance(flight, Tunnelled):
            fresh.inner = flight.inner
        return fresh

    def _note(self, space: FakeNamespace, flight: Flight, what: str) -> None:
        self._at(space, what, flight)

    def _at(self, space: FakeNamespace, what: str, flight: Flight) -> None:
        self.journey.place = Place(self.host, space.name)
        self.journey.steps.append(Step(self.journey.place, what, flight.packet))
        if len(self.journey.steps) > MOST_STEPS:
            raise End("going in circles")


def _ports(bridge: Device, port: Device | None) -> list[Device]:
    """The bridge's other ports to which `port` may talk (None: the bridge itself)."""
    isolated = port is not None and port.port.isolated
    ports = [
        d for d in bridge.space.devices.values() if d.master is bridge and d.up and d is not port
    ]
    return [other for other in ports if not (isolated and other.port.isolated)]


def _ask(device: Device, address: IPv4Address) -> MacAddress | None:
    """Answers an ARP request that comes in by the device."""
    if not device.up:
        return None
    if device.master is not None:
        return _ask_ports(device.master, device, address)
    return device.mac if ip.answers_arp(device.space, device.name, address) else None


def _ask_ports(bridge: Device, port: Device | None, address: IPv4Address) -> MacAddress | None:
    """Sends an ARP request to the bridge and its ports. VXLAN devices answer for the neighbours
    that they know (`proxy`)."""
    if port is not None and ip.answers_arp(bridge.space, bridge.name, address):
        return bridge.mac
    for other in _ports(bridge, port):
        known = (
            bridge.space.neighbours.get((other.name, address))
            if isinstance(other.kind, Vxlan)
            else None
        )
        found = known.mac if known else _ask(other.peer, address) if other.peer else None
        if found is not None:
            return found
    return None
