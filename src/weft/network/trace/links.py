"""What is behind an interface: who answers for an address there, and by which port a bridge sends a
frame on; and if nobody does, why.

The questions are asked as the kernel asks them: ARP, or neighbour discovery of IPv6, goes to every port of a bridge, a VXLAN
interface answers itself for the neighbours that it knows (`proxy`), a frame to an unknown MAC goes
out of every port that floods.
"""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.model.addresses import Address, MacAddress, mac_for
from weft.model.trace import CauseKind, Packet
from weft.network.kernel_state import HOST, Bridge, Tap, Veth, Vxlan
from weft.network.trace import stack as ip
from weft.network.trace.host import LOOPBACK, Device, Host, Space
from weft.network.trace.stack import Halt

IsLocal = Callable[[Address], bool]


class Answer(NamedTuple):
    """Who answered for an address, or why nobody did."""

    mac: MacAddress | None
    fact: str = ""
    missing: str = ""
    where: tuple[str, str] = ("", "")
    repair: str = ""


class WayOut(NamedTuple):
    """By which port a bridge sends a frame on."""

    device: Device
    vtep: IPv4Address | None
    """The host to which a VXLAN interface sends it."""
    fact: str


def uplink(host: Host, packet: Packet) -> Device:
    """The interface by which a packet from another host comes in: that with the address, else that
    of the route to the sender, else any that leads out."""
    space = host.space(HOST)
    wires = [device for device in space.devices.values() if host.is_wire(device)]
    owning = [d for d in wires if any(a.ip == packet.destination for a in d.addresses)]
    hop = ip.look_up(space, packet.reversed(), 0)
    routed = [device for device in wires if hop is not None and device.name == hop.device]
    for found in (*owning, *routed, *wires):
        return found
    raise Halt(CauseKind.MISSING, "no interface leads out of this host", where=(HOST, ""))


# --- neighbours


def resolve(host: Host, device: Device, address: Address) -> Answer:
    """Answers from the permanent neighbours, then by ARP."""
    space = host.space(device.space)
    known = space.neighbours.get((device.name, address))
    if known is not None:
        return Answer(known, f"{address} is at {known}: permanent neighbour of {device.name}")
    if not device.up:
        return _missing(device, f"interface {device.name} is down")
    if host.is_wire(device):
        return Answer("")
    if isinstance(device.kind, Tap):
        return Answer(device.mac)
    if isinstance(device.kind, Bridge):
        return _ask_ports(host, device, None, address)
    peer = host.peer(device)
    if peer is None:
        return _missing(device, f"the other end of {device.name} is missing")
    return _ask(host, peer, address)


def _missing(device: Device, words: str, repair: str = "") -> Answer:
    return Answer(None, missing=words, where=(device.space, device.name), repair=repair)


def _ask(host: Host, device: Device, address: Address) -> Answer:
    """Answers an ARP request that comes in by the device."""
    if not device.up:
        return _missing(device, f"interface {device.name} is down")
    space = host.space(device.space)
    if device.master is not None:
        return _ask_ports(host, space.devices[device.master], device, address)
    if ip.answers_arp(space, device, address):
        return Answer(device.mac, f"{address} is at {device.mac}: {device} answers")
    return _missing(device, why_not_bridged(device) or f"{device.name} has no address {address}")


def why_not_bridged(device: Device) -> str:
    """For what should be a port of a bridge; empty for other interfaces."""
    is_port = device.name.startswith(("veth", "vxlan", "wgw-", "wbr-"))
    return f"{device.name} is a port of no bridge" if is_port and not device.master else ""


def _ask_ports(host: Host, bridge: Device, port: Device | None, address: Address) -> Answer:
    """Sends an ARP request to the bridge and its ports. VXLAN devices answer for the neighbours
    that they know (`proxy`)."""
    space = host.space(bridge.space)
    if not bridge.up:
        return _missing(bridge, f"interface {bridge.name} is down")
    if port is not None and ip.answers_arp(space, bridge, address):
        return Answer(bridge.mac, f"{address} is at {bridge.mac}: {bridge} answers")
    for other in _ports(host, bridge, port):
        known = (
            space.neighbours.get((other.name, address)) if isinstance(other.kind, Vxlan) else None
        )
        if known is not None:
            return Answer(known, f"{address} is at {known}: permanent neighbour of {other}")
        peer = host.peer(other)
        found = _ask(host, peer, address) if peer is not None else None
        if found is not None and found.mac is not None:
            return found
    return _unanswered(host, bridge, port, address)


def _unanswered(host: Host, bridge: Device, asker: Device | None, address: Address) -> Answer:
    """Why nobody behind a bridge answered for the address: what is wrong with the port behind which
    it should be, else with the tunnel."""
    space = host.space(bridge.space)
    mac = mac_for(address) if isinstance(address, IPv4Address) else ""
    port = space.ports.get((bridge.name, mac))
    if port is not None:
        return next(_faults(host, space.devices[port], address), _missing(bridge, ""))
    for device in space.devices.values():
        peer = host.peer(device)
        if peer is not None and any(a.ip == address for a in peer.addresses):
            return next(_faults(host, device, address, bridge), _missing(bridge, ""))
    tunnels = [d for d in space.devices.values() if isinstance(d.kind, Vxlan)]
    elsewhere = [t for t in tunnels if t.master not in (None, bridge.name)]
    if asker is not None and tunnels and elsewhere == tunnels:
        other = f"{tunnels[0].name} of {tunnels[0].master}"
        return _missing(asker, f"{asker.name} is a port of {bridge.name}, {other}")
    for tunnel in tunnels:
        for fault in _faults(host, tunnel, address, bridge if len(tunnels) == 1 else None):
            return fault
    if tunnels:
        return _missing(tunnels[0], f"{tunnels[0].name} has no neighbour entry for {address}")
    if space.name == HOST:
        return _missing(bridge, f"no container behind {bridge.name} has this address")
    words = f"{space.name} has no VXLAN interface, and no container here has {address}"
    return _missing(bridge, words)


def _faults(
    host: Host, port: Device, address: Address, bridge: Device | None = None
) -> Iterator[Answer]:
    """What is wrong with a port. `bridge`: which it should be a port of."""
    if port.master is None:
        yield _missing(port, f"{port.name} is a port of no bridge")
    elif bridge is not None and port.master != bridge.name:
        yield _missing(port, f"{port.name} is a port of {port.master} instead of {bridge.name}")
    if not port.up:
        yield _missing(port, f"interface {port.name} is down")
    if not isinstance(port.kind, Veth):
        return
    peer = host.peer(port)
    if peer is None:
        yield _missing(port, f"the other end of {port.name} is missing")
    elif not peer.up:
        yield _missing(peer, f"interface {peer.name} is down")
    elif not any(a.ip == address for a in peer.addresses):
        yield _missing(peer, f"{peer.name} has no address {address}")


# --- forwarding


def check_lock(space: Space, bridge: Device, port: Device, sender: MacAddress) -> None:
    """A locked port lets in only senders that the bridge knows to be behind it."""
    if port.port.locked and space.ports.get((bridge.name, sender)) != port.name:
        raise Halt(
            CauseKind.NO_FORWARDING,
            f"dropped: {sender} is not behind {port}",
            f"{bridge.name} has no forwarding entry for {sender} at {port.name}",
            where=(port.space, port.name),
        )


def way_out(host: Host, bridge: Device, port: Device | None, mac: MacAddress) -> WayOut:
    """Raises `Halt` if no port leads to the MAC."""
    space = host.space(bridge.space)
    ports = _ports(host, bridge, port)
    known = space.ports.get((bridge.name, mac))
    for other in ports:
        if other.name == known:
            return WayOut(other, None, f"forwarding entry of {bridge.name} for {mac}")
    if known is None:
        for other in ports:
            found = _flooded(host, space, other, mac) if other.port.flood else None
            if found is not None:
                return found
    raise Halt(
        CauseKind.NO_FORWARDING,
        f"dropped: no port of {bridge} leads to {mac}",
        _why_no_way(space, bridge, mac, known),
        where=_culprit(space, bridge, known),
    )


def _flooded(host: Host, space: Space, port: Device, mac: MacAddress) -> WayOut | None:
    """A frame that goes out of every port: by this one it arrives."""
    if isinstance(port.kind, Vxlan):
        vtep = space.tunnels.get((port.name, mac))
        fact = f"forwarding entry of {port.name} for {mac}"
        return WayOut(port, vtep, fact) if vtep is not None else None
    peer = host.peer(port)
    if host.is_wire(port) or (peer is not None and peer.mac == mac):
        return WayOut(port, None, "flooded: no forwarding entry")
    return None


def _why_no_way(space: Space, bridge: Device, mac: MacAddress, known: str | None) -> str:
    if known is not None:
        port = space.devices[known]
        return f"interface {known} is down" if not port.up else f"{known} may not be sent to"
    for device in space.devices.values():
        if isinstance(device.kind, Vxlan) and not device.up:
            return f"interface {device.name} is down"
        if isinstance(device.kind, Vxlan) and device.master is None:
            return f"{device.name} is a port of no bridge"
    return f"no forwarding entry for {mac}"


def _culprit(space: Space, bridge: Device, known: str | None) -> tuple[str, str]:
    if known is not None:
        return space.name, known
    tunnels = [d.name for d in space.devices.values() if isinstance(d.kind, Vxlan)]
    return space.name, tunnels[0] if tunnels else bridge.name


def _ports(host: Host, bridge: Device, port: Device | None) -> list[Device]:
    """The bridge's other ports to which `port` may talk (None: the bridge itself)."""
    isolated = port is not None and port.port.isolated
    name = port.name if port is not None else LOOPBACK
    return [
        other
        for other in host.ports(bridge)
        if other.up and (other.name != name or other.port.hairpin)
        and not (isolated and other.port.isolated)
    ]  # fmt: skip


def route_facts(host: Host, device: Device, hop: ip.Hop) -> Iterator[str]:
    """What a packet goes by that leaves by the interface."""
    if hop.route is not None:
        via = f" via {hop.route.via}" if hop.route.via else ""
        yield f"route {hop.route.destination}{via} dev {device.name}"
    peer = host.peer(device)
    if peer is not None:
        yield f"the other end of {device.name} is {peer.name} in {peer.space}"
