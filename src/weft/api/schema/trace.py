"""A trace as JSON: the request, and the way step by step."""

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address

from weft.api.schema.common import Count, Wire
from weft.errors import InvalidArgument, clip
from weft.model.probe import Hop, Probe, Probed
from weft.model.trace import (
    Delivered,
    Finding,
    Leg,
    Packet,
    Passage,
    Sent,
    Step,
    TraceWanted,
)

MAX_REFERENCE = 255


class TraceWire(Wire, frozen=True):
    """`source` may be left out if `from_outside` is given."""

    source: str = ""
    target: str = ""
    port: Count = 0
    """0: the one that is known for the target."""
    protocol: str = "tcp"
    from_outside: str = ""
    """The address of somebody outside who sends the packet."""
    probe: bool = False
    """Send a marked packet along the way."""


def wanted_from(wire: TraceWire) -> TraceWanted:
    for name, value in (("Source", wire.source), ("Target", wire.target)):
        if len(value) > MAX_REFERENCE:
            raise InvalidArgument(f"cannot trace: {name}: {clip(value)!r} is too long")
    outside = None
    if wire.from_outside:
        try:
            outside = IPv4Address(wire.from_outside)
        except AddressValueError:
            raise InvalidArgument(
                f"cannot trace: FromOutside: {clip(wire.from_outside)!r} is not an IPv4 address"
            ) from None
    return TraceWanted(
        source=wire.source,
        target=wire.target,
        port=wire.port,
        protocol=wire.protocol or "tcp",
        outside=outside,
        probe=wire.probe,
    )


def trace_json(probed: Probed) -> dict[str, object]:
    trace = probed.trace
    return {
        "Arrived": trace.arrived,
        "Verdict": trace.verdict,
        "Findings": [_finding(finding) for finding in trace.findings],
        "Out": _legs(trace.out),
        "Back": _legs(trace.back),
        "Probe": _probe(probed.probe) if probed.probe is not None else None,
    }


def _probe(probe: Probe) -> dict[str, object]:
    return {
        "Sent": probe.sent,
        "Agrees": probe.agrees,
        "Verdict": probe.verdict,
        "Out": [_hop(hop) for hop in probe.out],
        "Back": [_hop(hop) for hop in probe.back],
        "Failures": list(probe.failures),
    }


def _hop(hop: Hop) -> dict[str, object]:
    """`Leg` and `Step`: places in the lists of the trace. `Passed` is null where the packet could
    not be watched."""
    return {
        "NodeID": hop.id,
        "Node": hop.node,
        "Namespace": hop.spot.namespace,
        "Device": hop.spot.device,
        "Leg": hop.leg,
        "Step": hop.step,
        "Passed": hop.passed,
        "Microseconds": hop.after,
    }


def _finding(finding: Finding) -> dict[str, object]:
    cause = finding.cause
    return {
        "Node": finding.node,
        "Place": finding.place,
        "Kind": cause.kind,
        "Namespace": cause.namespace,
        "Device": cause.device,
        "Words": cause.words,
        "Missing": cause.missing,
        "Repair": cause.repair,
    }


def _legs(legs: Iterable[Leg]) -> list[dict[str, object]]:
    return [
        {"NodeID": leg.id, "Node": leg.node, "Failure": leg.failure, **_passage(leg.passage)}
        for leg in legs
    ]


def _passage(passage: Passage | None) -> dict[str, object]:
    if passage is None:
        return {"Steps": [], "End": ""}
    asked = passage.asked
    found = asked.addresses if asked is not None else None
    return {
        "Name": asked.name if asked is not None else "",
        "Addresses": [str(address) for address in found] if found is not None else None,
        "Steps": [_step(step, passage) for step in passage.steps],
        "End": _end(passage),
    }


def _step(step: Step, passage: Passage) -> dict[str, object]:
    return {
        "Kind": step.kind,
        "Namespace": step.namespace,
        "Place": passage.labels.get(step.namespace, step.namespace),
        "Device": step.device,
        "Words": step.words,
        "Facts": list(step.facts),
        "Packet": _packet(step.packet),
    }


def _packet(packet: Packet) -> dict[str, object]:
    return {
        "Protocol": packet.protocol,
        "Source": str(packet.source),
        "SourcePort": packet.source_port,
        "Destination": str(packet.destination),
        "DestinationPort": packet.destination_port,
    }


def _end(passage: Passage) -> str:
    match passage.exit:
        case Delivered():
            return "delivered"
        case Sent():
            return "sent"
    return "stopped"
