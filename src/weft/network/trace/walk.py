"""A packet's way through one host, from where it enters to where it ends or leaves.

    passage = walk(host, FromProcess(namespace, packet), Memory())

This file has interfaces, bridges and tunnels; stack.py has the IP layer of a namespace, links.py
what is behind an interface. ARP requests are answered but not shown. There are no fragments, no
timing, no queues. Only the rules that are in force have an effect.

Whoever connects hosts gives what is `Sent` to the next host as `FromWire`. `Memory` has what the
kernels remember between two packets: a packet's answer is walked with the memory of the packet.
"""

import functools
from ipaddress import IPv4Address
from typing import NoReturn

from weft.model.addresses import ESP_OVERHEAD, VXLAN_OVERHEAD, Address
from weft.model.trace import (
    ANY,
    VXLAN_SOURCE_PORT,
    Cause,
    CauseKind,
    Datagram,
    Delivered,
    Entry,
    Exit,
    FromProcess,
    Packet,
    Passage,
    Sent,
    Step,
    StepKind,
    Stopped,
)
from weft.network.kernel_state import HOST, Bridge, Tap, Veth, Vxlan
from weft.network.ownership import CLEAR_MARK, ESP_DEVICE, ESP_SANDBOX
from weft.network.trace import links
from weft.network.trace import stack as ip
from weft.network.trace.conntrack import Connections
from weft.network.trace.flights import Memory, Sealed, Tunnelled, as_datagram
from weft.network.trace.host import LOOPBACK, Device, Host, Listener, Space
from weft.network.trace.nft import Flight
from weft.network.trace.stack import Halt

MOST_STEPS = 100
ROUTES = {"ip": "net.ipv4.ip_forward", "ip6": "net.ipv6.conf.all.forwarding"}
"""The parameter of the kernel that makes a host a router, by family."""
SERVER = "a server in the container that listens on the port, on 0.0.0.0 or on this address"


class _Done(Exception):
    """The way through this host ends."""

    def __init__(self, exit: Exit) -> None:
        super().__init__()
        self.exit = exit


def walk(host: Host, entry: Entry, memory: Memory) -> Passage:
    """Raises `Unread` where the host's state is not whole."""
    return _Walk(host, memory).run(entry)


class _Walk:
    """A passage in progress."""

    def __init__(self, host: Host, memory: Memory) -> None:
        self.host = host
        self.memory = memory
        self.steps: list[Step] = []
        self.remarks: dict[tuple[str, str, CauseKind], Cause] = {}
        self.here = HOST

    def run(self, entry: Entry) -> Passage:
        try:
            if isinstance(entry, FromProcess):
                self._from_process(entry)
            else:
                self._from_wire(entry.datagram)
        except Halt as halt:
            exit: Exit = Stopped(self._cause(halt))
        except _Done as done:
            exit = done.exit
        except ValueError as error:
            words = "cannot follow the rules of nftables"
            exit = Stopped(
                Cause(CauseKind.NOT_UNDERSTOOD, self.here, "", words, str(error), "another version")
            )
        return Passage(
            steps=tuple(self.steps),
            exit=exit,
            remarks=tuple(self.remarks.values()),
            flows=self.memory.flows(),
        )

    def _cause(self, halt: Halt) -> Cause:
        namespace, device = halt.where
        last = self.steps[-1].device if self.steps and not namespace else ""
        return Cause(
            halt.kind, namespace or self.here, device or last, str(halt), halt.missing, halt.repair
        )

    # --- entries

    def _from_process(self, entry: FromProcess) -> None:
        space = self.host.space(entry.namespace)
        flight = self._flight(space, entry.packet)
        flight.mark, flight.size = entry.mark, entry.size
        self._send(space, flight)

    def _from_wire(self, datagram: Datagram) -> None:
        space = self.host.space(HOST)
        flight = self._flown(space, datagram)
        device = links.uplink(self.host, datagram.packet)
        flight.ether_destination = device.mac or ""
        self._check_size(device, flight)
        if not device.up:
            self._down(device)
        self._receive_packet(space, device.name, flight)

    def _flown(self, space: Space, datagram: Datagram) -> Flight:
        """The flight of what came from the wire."""
        kind = Sealed if datagram.inner else Tunnelled if datagram.frame else Flight
        flight = kind(*self._fields(space, datagram.packet))
        flight.size, flight.vni = datagram.size, datagram.vni
        if isinstance(flight, Sealed) and datagram.inner is not None:
            flight.hidden, flight.spi = self._flown(space, datagram.inner), datagram.spi
        elif isinstance(flight, Tunnelled) and datagram.frame is not None:
            frame = datagram.frame
            flight.inner = self._flight(space, frame.packet)
            flight.inner.size = frame.size
            flight.inner.ether_source = frame.source
            flight.inner.ether_destination = frame.destination
        return flight

    # --- the IP layers on the way

    def _send(self, space: Space, flight: Flight) -> None:
        """Sends a packet of a local process. If rules change its mark or destination, the route is
        looked up again."""
        self._at(space, StepKind.SEND, "sends", flight)
        self._tell_foreign(space)
        hop = self._route(space, flight, LOOPBACK)
        if flight.packet.source.is_unspecified:
            flight.packet = flight.packet._replace(source=hop.source)
        before = (flight.mark, flight.packet.destination)
        flight.output = hop.device
        ip.hook(space, "output", flight, functools.partial(self._note, space, flight))
        if (flight.mark, flight.packet.destination) != before:
            hop = self._route(space, flight, LOOPBACK)
        if hop.device != LOOPBACK:
            flight.size = flight.size or space.devices[hop.device].mtu
        if isinstance(flight, Tunnelled) and self._is_for_kernel_engine(space, flight):
            self._encrypt(space, flight, ESP_DEVICE)
        self._leave(space, flight, hop)

    def _receive_packet(self, space: Space, device: str, flight: Flight) -> None:
        flight.input, flight.output = device, ""
        note = functools.partial(self._note, space, flight)
        self._at(space, StepKind.RECEIVE, f"in by {device}", flight, device)
        self._tell_foreign(space)
        ip.hook(space, "prerouting", flight, note)
        ip.check_source(space, flight.packet, flight.mark, device)
        hop = self._route(space, flight, device)
        if hop.device == LOOPBACK:
            ip.hook(space, "input", flight, note)
            ip.confirm(flight)
            self._deliver(space, flight)
        elif space.sysctl(ROUTES[flight.packet.family]) != "1":
            raise Halt(
                CauseKind.NOT_A_ROUTER,
                "dropped: not a router",
                f"{ROUTES[flight.packet.family]} is 0" if space.name == HOST else
                f"{flight.packet.destination} is not an address of this namespace",
                where=(space.name, device),
            )  # fmt: skip
        else:
            flight.output = hop.device
            # A sender is told of a smaller MTU on the way (RFC 1191), and sends less.
            flight.size = min(flight.size, space.devices[hop.device].mtu)
            ip.hook(space, "forward", flight, note)
            self._leave(space, flight, hop)

    def _leave(self, space: Space, flight: Flight, hop: ip.Hop) -> None:
        flight.output = hop.device
        note = functools.partial(self._note, space, flight)
        ip.hook(space, "postrouting", flight, note)
        words = f"out by {hop.device} to {hop.neighbour}"
        words += f", table {hop.table}" if hop.table not in (254, 255) else ""
        if hop.device == LOOPBACK:
            self._at(space, StepKind.ROUTE, words, flight, LOOPBACK)
            ip.confirm(flight)
            self._receive_packet(space, LOOPBACK, flight)
            return
        device = space.devices[hop.device]
        answer = links.resolve(self.host, device, hop.neighbour)
        facts = [fact for fact in (*links.route_facts(self.host, device, hop), answer.fact) if fact]
        self._at(space, StepKind.ROUTE, words, flight, device.name, *facts)
        ip.confirm(flight)
        if answer.mac is None:
            raise Halt(
                CauseKind.NO_NEIGHBOUR if device.up else CauseKind.DOWN,
                f"no host has {hop.neighbour} behind {hop.device}",
                answer.missing,
                answer.repair or ip.DAEMON,
                answer.where,
            )
        flight.ether_source, flight.ether_destination = device.mac or "", answer.mac
        ip.egress(space, flight, note)
        self._transmit(device, flight, hop.neighbour)

    def _deliver(self, space: Space, flight: Flight) -> None:
        """Delivers to a process, or to the VXLAN device or ESP engine that has its socket here."""
        if isinstance(flight, Sealed):
            self._decrypt(space, flight)
        if isinstance(flight, Tunnelled):
            self._decapsulate(space, flight)
            return
        self._at(space, StepKind.ARRIVE, "arrives", flight)
        self._check_listener(space, flight.packet, flight)
        raise _Done(Delivered(space.name, flight.packet, flight.mark, self._answer(space, flight)))

    def _check_listener(self, space: Space, packet: Packet, flight: Flight) -> None:
        """An answer needs no listener: it has a socket."""
        asked = flight.tracked is None or not flight.tracked.is_reply
        if space.listeners is None or packet.protocol not in ("tcp", "udp") or not asked:
            return
        wanted = (packet.protocol, packet.destination_port)
        bound = [one for one in space.listeners if (one.protocol, one.port) == wanted]
        if any(_takes(one, packet.destination) for one in bound):
            return
        where = ", ".join(sorted(str(one.address) for one in bound))
        raise Halt(
            CauseKind.NO_LISTENER,
            f"refused: nobody listens on {packet.destination}:{packet.destination_port}",
            f"the server listens on {where} only" if bound
            else f"no socket listens on {packet.protocol} port {packet.destination_port} here",
            SERVER,
            (space.name, ""),
        )  # fmt: skip

    @staticmethod
    def _answer(space: Space, flight: Flight) -> FromProcess:
        """The answer of a server bound to 0.0.0.0. TCP answers with the mark of the request where
        `tcp_fwmark_accept` says so, and from the address that was asked; UDP leaves its source to
        the kernel."""
        packet = flight.packet.reversed()
        if packet.protocol == "udp":
            return FromProcess(space.name, packet._replace(source=ANY))
        accepts = packet.protocol == "tcp" and space.sysctl("net.ipv4.tcp_fwmark_accept") == "1"
        return FromProcess(space.name, packet, flight.mark if accepts else 0)

    def _route(self, space: Space, flight: Flight, input: str) -> ip.Hop:
        hop = ip.look_up(space, flight.packet, flight.mark, input)
        if hop is None or not hop.device:
            down = sorted(d.name for d in space.devices.values() if not d.up and d.name != LOOPBACK)
            raise Halt(
                CauseKind.NO_ROUTE,
                f"no route to {flight.packet.destination}",
                f"{', '.join(down)} is down" if down else "",
                "a network that both are on, or a route; routes of ours come back by themselves",
                (space.name, ""),
            )
        return hop

    # --- frames

    def _transmit(self, device: Device, flight: Flight, neighbour: Address = ANY) -> None:
        if not device.up:
            self._down(device)
        self._check_size(device, flight)
        if self.host.is_wire(device):
            raise _Done(Sent(device.name, neighbour, as_datagram(flight)))
        if isinstance(device.kind, Bridge):
            self._bridge(device, None, flight)
        elif isinstance(device.kind, Veth):
            peer = self.host.peer(device)
            if peer is None:
                raise Halt(
                    CauseKind.MISSING,
                    f"{device} leads nowhere",
                    "the other end of this veth is in no namespace of ours",
                    where=(device.space, device.name),
                )
            self._receive_frame(peer, self._fresh(self.host.space(peer.space), flight))
        elif isinstance(device.kind, Tap) and isinstance(flight, Tunnelled):
            self._encrypt(self.host.space(device.space), flight, device.name)
        else:
            raise Halt(CauseKind.MISSING, f"nobody is known to be behind {device}")

    def _receive_frame(self, device: Device, flight: Flight) -> None:
        if not device.up:
            self._down(device)
        self._check_size(device, flight)
        space = self.host.space(device.space)
        if device.master is not None:
            self._bridge(space.devices[device.master], device, flight)
        elif flight.ether_destination != device.mac:
            raise Halt(
                CauseKind.WRONG_MAC,
                f"dropped: frame to {flight.ether_destination} at {device}, which is {device.mac}",
                links.why_not_bridged(device),
                where=(device.space, device.name),
            )
        else:
            self._receive_packet(space, device.name, flight)

    def _bridge(self, bridge: Device, port: Device | None, flight: Flight) -> None:
        space = self.host.space(bridge.space)
        if not bridge.up:
            self._down(bridge)
        if port is not None:
            links.check_lock(space, bridge, port, flight.ether_source)
            ip.ingress(space, port, flight, functools.partial(self._note, space, flight))
            if flight.ether_destination == bridge.mac:
                self._receive_packet(space, bridge.name, flight)
                return
        other = links.way_out(self.host, bridge, port, flight.ether_destination)
        words = f"{bridge.name}: {port.name if port else 'own'} to {other.device.name}"
        if other.vtep is None or not isinstance(other.device.kind, Vxlan):
            self._at(space, StepKind.BRIDGE, words, flight, other.device.name, other.fact)
            self._transmit(other.device, flight)
            return
        vni = f"VNI {other.device.kind.vni}"
        words += f", host {other.vtep}"
        self._at(space, StepKind.TUNNEL, words, flight, other.device.name, other.fact, vni)
        self._encapsulate(other.device, other.device.kind, other.vtep, flight)

    def _down(self, device: Device) -> NoReturn:
        raise Halt(
            CauseKind.DOWN,
            f"{device} is down",
            f"interface {device.name} is down",
            where=(device.space, device.name),
        )

    def _check_size(self, device: Device, flight: Flight) -> None:
        """What is larger than the interface takes is dropped without a word, where nobody
        routes."""
        if flight.size > device.mtu:
            words = f"a packet of {flight.size} bytes would be dropped here"
            self._remark(CauseKind.TOO_LARGE, device, words, f"the MTU is {device.mtu}")

    def _tell_foreign(self, space: Space) -> None:
        if space.foreign:
            words = f"not followed: {'; '.join(space.foreign)}"
            cause = Cause(CauseKind.NOT_FOLLOWED, space.name, "", words, "they may do more", "")
            self.remarks.setdefault((space.name, "", cause.kind), cause)
        if space.unsure:
            words = f"not compared: nft table {', '.join(space.unsure)}"
            missing = "other rules were written here a moment ago; these are taken as applied"
            cause = Cause(CauseKind.NOT_FOLLOWED, space.name, "", words, missing, ip.DAEMON)
            self.remarks.setdefault((space.name, "unsure", cause.kind), cause)

    def _remark(self, kind: CauseKind, device: Device, words: str, missing: str) -> None:
        cause = Cause(kind, device.space, device.name, words, missing, ip.DAEMON)
        self.remarks.setdefault((device.space, device.name, kind), cause)

    # --- between hosts

    def _encapsulate(self, device: Device, kind: Vxlan, vtep: IPv4Address, frame: Flight) -> None:
        """Encapsulates (RFC 7348). The datagram is sent from the namespace of the device's
        socket."""
        if not device.up:
            self._down(device)
        self._check_size(device, frame)
        space = self.host.space(kind.socket)
        packet = Packet("udp", kind.local, VXLAN_SOURCE_PORT, vtep, kind.port)
        outer = Tunnelled(*self._fields(space, packet))
        outer.inner, outer.vni = frame, kind.vni
        outer.size = frame.size + VXLAN_OVERHEAD if frame.size else 0
        self._send(space, outer)

    def _decapsulate(self, space: Space, outer: Tunnelled) -> None:
        port = outer.packet.destination_port
        for other in self.host.spaces.values():
            for device in other.devices.values():
                kind = device.kind
                if isinstance(kind, Vxlan) and (kind.socket, kind.vni, kind.port) == (
                    space.name, outer.vni, port,
                ):  # fmt: skip
                    inside = self.host.space(other.name)
                    words = f"in by {device.name}, VNI {kind.vni}"
                    self._at(inside, StepKind.DECAPSULATE, words, outer.inner, device.name)
                    if device.master is None:
                        raise Halt(
                            CauseKind.NOT_IN_BRIDGE,
                            f"dropped: {device.name} leads nowhere",
                            links.why_not_bridged(device),
                            where=(other.name, device.name),
                        )
                    self._receive_frame(device, self._fresh(inside, outer.inner))
        raise Halt(
            CauseKind.MISSING,
            f"dropped: nobody here has VNI {outer.vni}",
            f"no VXLAN interface with VNI {outer.vni}",
        )

    def _is_for_kernel_engine(self, space: Space, flight: Flight) -> bool:
        seals = self.host.seals
        return (
            seals is not None
            and seals.by_kernel
            and space.name == HOST
            and flight.mark != CLEAR_MARK
            and flight.packet.destination in seals.outbound
        )

    def _encrypt(self, space: Space, flight: Tunnelled, device: str) -> None:
        """Encrypts (RFC 4303), and sends the ESP packet from the host's namespace."""
        seals, remote = self.host.seals, flight.packet.destination
        spi = seals.outbound.get(IPv4Address(remote), 0) if seals is not None else 0
        if seals is not None and not spi:
            raise Halt(
                CauseKind.NO_KEY,
                f"dropped by the ESP engine: no key for {remote}",
                repair="weft keys, on a manager, shows the keys",
                where=(space.name, device),
            )
        shown = (f"SPI {spi:#x}",) if spi else ()
        self._at(space, StepKind.ENCRYPT, "encrypted", flight, device, *shown)
        host = self.host.space(HOST)
        packet = Packet("esp", flight.packet.source, 0, remote, 0)
        outer = Sealed(*self._fields(host, packet))
        outer.hidden, outer.spi = flight, spi
        outer.size = flight.size + ESP_OVERHEAD if flight.size else 0
        self._send(host, outer)

    def _decrypt(self, space: Space, flight: Sealed) -> NoReturn:
        """The engine gives the datagram to the namespace of the tunnel's socket."""
        seals = self.host.seals
        if seals is not None and flight.spi and flight.spi not in seals.inbound:
            raise Halt(
                CauseKind.NO_KEY,
                f"dropped by the ESP engine: no key for SPI {flight.spi:#x}",
                repair="weft keys, on a manager, shows the keys",
            )
        shown = (f"SPI {flight.spi:#x}",) if flight.spi else ()
        if seals is not None and seals.by_kernel:
            inner = self._fresh(space, flight.hidden)
            self._at(space, StepKind.DECRYPT, "decrypted", inner, "", *shown)
            self._deliver(space, inner)
        elif self.host.device((ESP_SANDBOX, ESP_DEVICE)) is None:
            raise Halt(
                CauseKind.MISSING,
                "dropped: no ESP engine here",
                f"{ESP_SANDBOX} has no interface {ESP_DEVICE}",
                where=(ESP_SANDBOX, ESP_DEVICE),
            )
        there = self.host.space(ESP_SANDBOX)
        inner = self._fresh(there, flight.hidden)
        self._at(there, StepKind.DECRYPT, "decrypted", inner, ESP_DEVICE, *shown)
        device = there.devices[ESP_DEVICE]
        if not device.up:
            self._down(device)
        self._receive_packet(there, ESP_DEVICE, inner)
        raise AssertionError("a packet's way has an end")

    # ---

    def _fields(
        self, space: Space, packet: Packet
    ) -> tuple[Packet, links.IsLocal, dict[str, int], Connections]:
        memory, name = self.memory, space.name
        return packet, space.is_local, memory.counters(name), memory.connections(name)

    def _flight(self, space: Space, packet: Packet) -> Flight:
        return Flight(*self._fields(space, packet))

    def _fresh(self, space: Space, flight: Flight) -> Flight:
        """Copies a flight for another namespace, without its mark and connection."""
        fresh = type(flight)(*self._fields(space, flight.packet))
        fresh.ether_source, fresh.ether_destination = flight.ether_source, flight.ether_destination
        fresh.vni, fresh.size = flight.vni, flight.size
        if isinstance(fresh, Tunnelled) and isinstance(flight, Tunnelled):
            fresh.inner = flight.inner
        return fresh

    def _note(
        self, space: Space, flight: Flight, kind: StepKind, words: str, *facts: str, choices: int = 1
    ) -> None:  # fmt: skip
        device = flight.output or flight.input
        self._at(space, kind, words, flight, device, *facts, choices=choices)

    def _at(
        self, space: Space, kind: StepKind, words: str, flight: Flight, device: str = "", *facts: str,
        choices: int = 1,
    ) -> None:  # fmt: skip
        self.here = space.name
        known = tuple(fact for fact in facts if fact)
        self.steps.append(Step(space.name, device, kind, words, flight.packet, known, choices))
        if len(self.steps) > MOST_STEPS:
            raise Halt(CauseKind.CIRCLE, "going in circles", "", "routes that do not form a circle")


def _takes(listener: Listener, destination: Address) -> bool:
    return listener.address in (ANY, destination)
