"""Compares a trace's walk with the marked packet that was sent after it.

hops      the interfaces on the way, as the walk has them
departure what is sent from where, or why nothing can be sent
judged    which hops the packet has passed, and whether the walk says the same
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple

import msgspec

from weft.model.ids import NodeId
from weft.model.probe import MOST_PROBES, Departure, Hop, Mark, Probe, Sighting, Spot
from weft.model.trace import (
    ANY,
    VXLAN_SOURCE_PORT,
    CauseKind,
    Delivered,
    FromProcess,
    Leg,
    Packet,
    Sent,
    Step,
    StepKind,
    Stopped,
    Trace,
)

AT_INTERFACES = frozenset(
    {StepKind.RECEIVE, StepKind.ROUTE, StepKind.BRIDGE, StepKind.TUNNEL, StepKind.DECAPSULATE}
)
"""Steps in which a packet comes in or goes out by an interface."""
DISAGREES = "THE PROBE DISAGREES"


class Seen(NamedTuple):
    """A sighting with its place, and its time by the manager's clock."""

    node: NodeId
    spot: Spot | None
    """None: an interface of the task that is the target."""
    sighting: Sighting
    time: int


def hops(legs: Iterable[Leg]) -> Iterator[Hop]:
    """In order. What is encrypted cannot be told apart, and so is not a hop."""
    met: set[tuple[NodeId, Spot, Packet]] = set()
    for number, leg in enumerate(legs):
        for place, step in enumerate(leg.passage.steps if leg.passage is not None else ()):
            spot = Spot(step.namespace, step.device)
            if (
                step.kind not in AT_INTERFACES
                or not step.device
                or (leg.id, spot, step.packet) in met
            ):
                continue
            if step.packet.protocol == "esp":
                continue
            met.add((leg.id, spot, step.packet))
            yield Hop(
                id=leg.id, node=leg.node, spot=spot, leg=number, step=place, packet=step.packet
            )


def choices(legs: Iterable[Leg]) -> int:
    """How many packets to send, so that one of them goes the way that was walked."""
    steps = [step for leg in legs if leg.passage is not None for step in leg.passage.steps]
    most = max((step.choices for step in steps), default=1)
    # Not every one is ours: others use the service too.
    return 1 if most == 1 else MOST_PROBES


def departure(trace: Trace, entry: object, protocol: str) -> Departure | str:
    """What is to be sent, or why nothing is."""
    first = trace.out[0].passage
    steps = first.steps if first is not None else ()
    if not isinstance(entry, FromProcess):
        return "the sender is outside the swarm"
    begun = next((step for step in steps if step.packet.source != ANY), None)
    if begun is None or not steps:
        return "the packet does not leave its sender"
    last = trace.out[-1].passage
    if last is not None and isinstance(last.exit, Sent):
        return "the target is outside the swarm"
    if protocol == "udp" and _is_translated_on_the_way(trace.out):
        return (
            "the target of the datagram is translated on the way, which the kernel does only for"
            " datagrams that the program would get"
        )
    asked = steps[0].packet
    return Departure(
        namespace=steps[0].namespace,
        source=IPv4Address(begun.packet.source),
        destination=IPv4Address(asked.destination),
        port=asked.destination_port,
    )


def _is_translated_on_the_way(legs: Sequence[Leg]) -> bool:
    """Other than by the sender's own rules: connection tracking looks at the checksum of what comes
    in."""
    received = False
    for leg in legs:
        for step in leg.passage.steps if leg.passage is not None else ():
            received |= step.kind is StepKind.RECEIVE
            if received and step.kind is StepKind.TRANSLATE:
                return True
    return False


def target_address(legs: Sequence[Leg]) -> IPv4Address | None:
    """Where the packet would go, after all translations that the walk knows of."""
    steps: list[Step] = [s for leg in legs if leg.passage is not None for s in leg.passage.steps]
    inner = [step for step in steps if not _is_between_hosts(step)]
    return IPv4Address(inner[-1].packet.destination) if inner else None


def _is_between_hosts(step: Step) -> bool:
    packet = step.packet
    return packet.protocol == "esp" or (
        packet.protocol == "udp" and packet.source_port == VXLAN_SOURCE_PORT
    )


# --- the verdict


def unsent(reason: str) -> Probe:
    return Probe(sent=False, verdict=f"not probed: {reason}")


def judged(
    trace: Trace,
    mark: Mark,
    sent: int,
    seen: Iterable[Seen],
    failures: Mapping[NodeId, Sequence[str]],
) -> Probe:
    """`sent`: by the manager's clock. `failures`: what could not be watched."""
    everything = list(seen)
    unwatched = {node for node in failures if "" in failures[node]}
    found = _best(trace, mark, everything)
    out = tuple(_passed(hop, found, sent, False, unwatched) for hop in hops(trace.out))
    back = tuple(_passed(hop, found, sent, True, unwatched) for hop in hops(trace.back))
    agrees, verdict = _verdict(trace, out, back, found, sent)
    told = tuple(
        f"{_name(trace, node)}: {text}"
        for node, texts in failures.items()
        for text in texts
        if text
    )
    return Probe(sent=True, verdict=verdict, agrees=agrees, out=out, back=back, failures=told)


def is_complete(trace: Trace, mark: Mark, seen: Iterable[Seen]) -> bool:
    """Whether all that is expected was seen."""
    found = _best(trace, mark, list(seen))
    expected = [(hop, False) for hop in _expected(trace)]
    expected += [(hop, True) for hop in hops(trace.back)] if mark.protocol == "tcp" else []
    return all(_sighted(hop, found, answer) is not None for hop, answer in expected)


def is_at_target(seen: Iterable[Seen]) -> bool:
    """Whether the packet was seen at an interface of the target, which the walk did not reach."""
    return any(one.spot is None and not one.sighting.answer for one in seen)


def _expected(trace: Trace) -> list[Hop]:
    """The hops that the packet passes if the walk is right. Whether it has passed the last step
    before its end is not known."""
    all_hops = list(hops(trace.out))
    return all_hops if is_delivered(trace) or _is_refused(trace) else all_hops[:-1]


def _is_refused(trace: Trace) -> bool:
    """Whether the walk brings the packet to the target, where nobody listens."""
    last = trace.out[-1].passage
    if last is None or not isinstance(last.exit, Stopped):
        return False
    return last.exit.cause.kind is CauseKind.NO_LISTENER


def is_delivered(trace: Trace) -> bool:
    """Whether the walk brings the packet to a process."""
    last = trace.out[-1].passage
    return last is not None and isinstance(last.exit, Delivered)


def _best(trace: Trace, mark: Mark, seen: Sequence[Seen]) -> list[Seen]:
    """The sightings of the packet that came furthest on the way that was walked."""
    walked = list(hops(trace.out))

    def hops_passed(number: int) -> int:
        own = [one for one in seen if one.sighting.number == number]
        return sum(_sighted(hop, own, False) is not None for hop in walked)

    best = max(range(mark.count), key=hops_passed)
    return [one for one in seen if one.sighting.number == best]


def _sighted(hop: Hop, seen: Iterable[Seen], answer: bool) -> Seen | None:
    """The first sighting of the packet at this hop, with the addresses that the walk has there."""
    for one in seen:
        if one.sighting.answer is not answer or (one.node, one.spot) != (hop.id, hop.spot):
            continue
        if _fits(one.sighting.packet, hop.packet, answer):
            return one
    return None


def _fits(met: Packet, walked: Packet, answer: bool) -> bool:
    """The client's port is another one than in the walk, and a tunnel's source port is anything."""
    if met.protocol != walked.protocol or met.destination != walked.destination:
        return False
    if answer and walked.source_port != VXLAN_SOURCE_PORT:
        return (met.source, met.source_port) == (walked.source, walked.source_port)
    return met.destination_port == walked.destination_port


def _passed(hop: Hop, seen: Sequence[Seen], sent: int, answer: bool, blind: set[NodeId]) -> Hop:
    one = _sighted(hop, seen, answer)
    if one is not None:
        after = (one.time - sent) // 1000
        return msgspec.structs.replace(hop, passed=True, after=after)
    return msgspec.structs.replace(hop, passed=None if hop.id in blind else False)


def _verdict(
    trace: Trace, out: Sequence[Hop], back: Sequence[Hop], seen: Sequence[Seen], sent: int
) -> tuple[bool, str]:
    delivered = is_delivered(trace)
    here = [one for one in seen if not one.sighting.answer]
    if not delivered:
        return _of_a_stopped_walk(trace, out, here)
    missing = next((hop for hop in out if hop.passed is False), None)
    if missing is not None:
        return False, (
            f"{DISAGREES}: it was {_last(trace, out)}, and not at {_place(trace, missing)}: something"
            " that the walk does not know stops it there"
        )
    if not out or out[-1].passed is None:
        return True, "the probe could not be watched at the target"
    arrived = f"the probe arrives after {out[-1].after} µs"
    if not back:
        return True, arrived
    refused = any(one.sighting.refused for one in seen if one.sighting.answer)
    lost = next((hop for hop in back if hop.passed is False), None)
    if trace.arrived and out[0].packet.protocol == "udp":
        return True, f"{arrived}; no program gets it, so there is no answer"
    if lost is not None:
        agrees = not trace.arrived
        start = f"{arrived}, but its answer does not come to {_place(trace, lost, back=True)}"
        return agrees, start if agrees else f"{DISAGREES}: {start}"
    if refused:
        return False, f"{DISAGREES}: {arrived}, and is refused: nobody listens there"
    if not trace.arrived:
        return False, f"{DISAGREES}: {arrived}, and its answer is back"
    return True, f"{arrived}, and its answer is back after {back[-1].after} µs"


def _of_a_stopped_walk(trace: Trace, out: Sequence[Hop], here: Sequence[Seen]) -> tuple[bool, str]:
    last = trace.out[-1].passage
    if last is None:
        return True, f"the probe was {_last(trace, out)}"
    if _is_refused(trace) and out and out[-1].passed:
        return True, f"the probe comes to {_place(trace, out[-1])}, where nobody listens"
    if is_at_target(here):
        return False, f"{DISAGREES}: it arrives at the target, whatever the walk says"
    expected = out if _is_refused(trace) else out[:-1]
    early = next((hop for hop in expected if hop.passed is False), None)
    if early is not None:
        return False, f"{DISAGREES}: it does not even come to {_place(trace, early)}"
    return True, f"the probe does not arrive either: it was {_last(trace, out)}"


def _last(trace: Trace, out: Sequence[Hop]) -> str:
    passed = [hop for hop in out if hop.passed]
    return f"last seen at {_place(trace, passed[-1])}" if passed else "seen nowhere"


def _place(trace: Trace, hop: Hop, *, back: bool = False) -> str:
    passage = (trace.back if back else trace.out)[hop.leg].passage
    labels = passage.labels if passage is not None else {}
    where = labels.get(hop.spot.namespace, hop.spot.namespace)
    return f"{hop.node}, {where}, {hop.spot.device}"


def _name(trace: Trace, node: NodeId) -> str:
    return next((leg.node for leg in (*trace.out, *trace.back) if leg.id == node), node)
