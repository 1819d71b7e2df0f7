"""What a marked packet says of a walk: where it has passed, and whether both agree."""

from ipaddress import IPv4Address

import msgspec
import pytest

from weft.control.probe import (
    Seen,
    choices,
    departure,
    hops,
    is_at_target,
    is_complete,
    judged,
    target_address,
)
from weft.model.ids import NodeId
from weft.model.probe import Departure, Mark, Probe, Sighting, Spot
from weft.model.trace import (
    ANY,
    Cause,
    CauseKind,
    Datagram,
    Delivered,
    Exit,
    FromProcess,
    FromWire,
    Leg,
    Packet,
    Passage,
    Sent,
    Step,
    StepKind,
    Stopped,
    Trace,
)

ONE, TWO = NodeId("n1"), NodeId("n2")
APP, VIRTUAL, WEB, OTHER = (IPv4Address(f"10.0.1.{last}") for last in (6, 2, 3, 4))
HOST1, HOST2 = IPv4Address("10.59.72.11"), IPv4Address("10.59.72.12")
ASKED = Packet("tcp", APP, 40000, VIRTUAL, 80)
THERE = Packet("tcp", APP, 40000, WEB, 80)
OUTER = Packet("udp", HOST1, 49152, HOST2, 4789)
BACK = THERE.reversed()
MARK = Mark(protocol="tcp", number=16, count=16, port=61000)
SENDS = FromProcess("app", ASKED)


def step(space: str, device: str, kind: StepKind, packet: Packet, choices: int = 1) -> Step:
    return Step(space, device, kind, "", packet, (), choices)


def leg(node: NodeId, exit: Exit, *steps: Step) -> Leg:
    return Leg(node, f"host {node}", Passage(steps=steps, exit=exit, labels={"web": "web.1"}))


SENT = Sent("ens160", HOST2, Datagram(packet=OUTER))
OUT1 = leg(
    ONE, SENT,
    step("app", "", StepKind.SEND, ASKED._replace(source=ANY)),
    step("app", "eth0", StepKind.TRANSLATE, ASKED, 2),
    step("app", "eth0", StepKind.ROUTE, THERE),
    step("host", "ens160", StepKind.ROUTE, OUTER),
)  # fmt: skip
ARRIVED = Delivered("web", THERE, 0, FromProcess("web", BACK))
OUT2 = leg(
    TWO, ARRIVED,
    step("host", "ens160", StepKind.RECEIVE, OUTER),
    step("web", "eth1", StepKind.RECEIVE, THERE),
)  # fmt: skip
HOME = Delivered("app", BACK, 0, SENDS)
BACK1 = leg(TWO, HOME, step("web", "eth1", StepKind.ROUTE, BACK))
BACK2 = leg(ONE, HOME, step("app", "eth0", StepKind.RECEIVE, BACK))
WALKED = Trace(out=(OUT1, OUT2), back=(BACK1, BACK2), arrived=True)
CAUSE = Cause(CauseKind.DOWN, "web", "eth1", "eth1 is down")
STOPPED = Trace(out=(OUT1, msgspec.structs.replace(OUT2, passage=Passage(
    steps=OUT2.passage.steps if OUT2.passage else (), exit=Stopped(CAUSE)))))  # fmt: skip


def sighting(
    node: NodeId, space: str, device: str, packet: Packet, after: int,
    *, number: int = 0, answer: bool = False, refused: bool = False,
) -> Seen:  # fmt: skip
    mine = packet._replace(source_port=61000 + number) if packet == THERE else packet
    mine = mine._replace(source_port=53211) if packet == OUTER else mine
    mine = mine._replace(destination_port=61000 + number) if packet == BACK else mine
    one = Sighting(
        spot=0, number=number, answer=answer, refused=refused, time=after * 1000, packet=mine
    )
    return Seen(node, Spot(space, device), one, after * 1000)


def way(number: int = 0, *, refused: bool = False) -> list[Seen]:
    return [
        sighting(ONE, "app", "eth0", THERE, 10, number=number),
        sighting(ONE, "host", "ens160", OUTER, 20, number=number),
        sighting(TWO, "host", "ens160", OUTER, 30, number=number),
        sighting(TWO, "web", "eth1", THERE, 40, number=number),
        sighting(TWO, "web", "eth1", BACK, 50, number=number, answer=True, refused=refused),
        sighting(ONE, "app", "eth0", BACK, 60, number=number, answer=True, refused=refused),
    ]


def probe(trace: Trace, seen: list[Seen], **failures: list[str]) -> Probe:
    return judged(trace, MARK, 0, seen, {NodeId(node): some for node, some in failures.items()})


def test_a_packet_that_passes_all_hops_agrees() -> None:
    found = probe(WALKED, way())
    assert found.agrees
    assert found.verdict == "the probe arrives after 40 µs, and its answer is back after 60 µs"
    assert [(hop.node, hop.spot.device, hop.passed, hop.after) for hop in found.out] == [
        ("host n1", "eth0", True, 10),
        ("host n1", "ens160", True, 20),
        ("host n2", "ens160", True, 30),
        ("host n2", "eth1", True, 40),
    ]
    assert [(hop.leg, hop.step, hop.after) for hop in found.back] == [(0, 0, 50), (1, 0, 60)]
    assert is_complete(WALKED, MARK, way())


@pytest.mark.parametrize("count", range(6))
def test_a_packet_that_is_lost_disagrees_and_says_where(count: int) -> None:
    assert not is_complete(WALKED, MARK, way()[:count])
    found = probe(WALKED, way()[:count])
    assert not found.agrees
    assert "THE PROBE DISAGREES" in found.verdict
    lost = ["n1, app, eth0", "n1, host, ens160", "n2, host, ens160", "n2, web.1, eth1",
            "come to host n2, web.1, eth1", "come to host n1, app, eth0"]  # fmt: skip
    assert lost[count] in found.verdict
    assert [hop.passed for hop in (*found.out, *found.back)] == [True] * count + [False] * (
        6 - count
    )


def test_of_several_tasks_the_packet_counts_that_goes_the_walked_way() -> None:
    assert choices(WALKED.out) == 16
    elsewhere = THERE._replace(destination=OTHER, source_port=61000)
    first = sighting(ONE, "app", "eth0", elsewhere, 1)
    assert probe(WALKED, [first, *way(5)]).agrees
    assert not is_complete(WALKED, MARK, [first])


def test_a_refusal_disagrees_with_a_listener() -> None:
    found = probe(WALKED, way(refused=True))
    assert (found.agrees, "refused" in found.verdict) == (False, True)


def test_a_walk_that_ends_is_believed_until_the_packet_arrives() -> None:
    assert target_address(STOPPED.out) == WEB
    assert is_complete(STOPPED, MARK, way()[:3])
    stopped = probe(STOPPED, way()[:3])
    assert stopped.agrees
    assert stopped.verdict.endswith("it was last seen at host n2, host, ens160")
    here = way()[3]._replace(spot=None)
    assert is_at_target([here])
    assert not probe(STOPPED, [*way()[:3], here]).agrees
    early = probe(STOPPED, way()[:1])
    assert (early.agrees, "does not even come to" in early.verdict) == (False, True)


def test_a_node_that_does_not_watch_proves_nothing() -> None:
    found = probe(WALKED, way()[:2], n2=["", "it is too old"])
    assert found.agrees
    assert [hop.passed for hop in found.out] == [True, True, None, None]
    assert found.failures == ("host n2: it is too old",)


def test_what_cannot_be_probed_is_said() -> None:
    leaves = departure(WALKED, SENDS, "tcp")
    assert leaves == Departure(namespace="app", source=APP, destination=VIRTUAL, port=80)
    outside = departure(WALKED, FromWire(Datagram(packet=ASKED)), "tcp")
    assert outside == "the sender is outside the swarm"
    assert "outside" in str(departure(Trace(out=(OUT1,)), SENDS, "tcp"))
    translated = msgspec.structs.replace(
        STOPPED,
        out=(OUT1, leg(TWO, ARRIVED, step("host", "ens160", StepKind.RECEIVE, THERE),
                       step("host", "ens160", StepKind.TRANSLATE, THERE))),
    )  # fmt: skip
    assert "translated on the way" in str(departure(translated, SENDS, "udp"))
    assert isinstance(departure(translated, SENDS, "tcp"), Departure)


def test_what_is_encrypted_is_no_hop() -> None:
    sealed = leg(ONE, SENT, step("host", "ens160", StepKind.ROUTE, OUTER._replace(protocol="esp")))
    assert list(hops([sealed])) == []
