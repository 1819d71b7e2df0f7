"""A trace as JSON: the request, and the way step by step."""

from collections.abc import Iterable
from ipaddress import AddressValueError, IPv4Address

from weft.api.schema.common import Count, Wire
from weft.errors import InvalidArgument, clip
from weft.model.trace import (
    Delivered,
    Finding,
    Leg,
    Packet,
    Passage,
    Sent,
    Step,
    Trace,
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
    )


def trace_json(trace: Trace) -> dict[str, object]:
    return {
        "Arrived": trace.arrived,
        "Verdict": trace.verdict,
        "Findings": [_finding(finding) for finding in trace.findings],
        "Out": _legs(trace.out),
        "Back": _legs(trace.back),
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
