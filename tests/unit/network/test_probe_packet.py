"""The marked packet of a probe: what is sent (scapy reads it), and what interfaces take for it."""

from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet as Layers
from scapy.packet import Raw

from weft.model.capture import HEADER, Instruction
from weft.model.probe import Departure, Mark, Sighting
from weft.network.probe_packet import marked_filter, packets, sightings

APP, WEB = "10.0.1.6", "10.0.1.3"
TCP_MARK = Mark(protocol="tcp", number=0xFFFFFFF0, count=16, port=61000)
UDP_MARK = Mark(protocol="udp", number=0x1230, count=1, port=61000)
LEAVES = Departure(namespace="a", source=IPv4Address(APP), destination=IPv4Address(WEB), port=80)


def is_taken(program: tuple[Instruction, ...], packet: bytes) -> bool:
    """Runs the filter as the kernel does (`net/core/filter.c`)."""
    at = accumulator = 0
    while True:
        code, true, false, operand = program[at]
        at += 1
        match code:
            case 0x20 if operand + 4 > len(packet):
                return False
            case 0x20:
                accumulator = int.from_bytes(packet[operand : operand + 4], "big")
            case 0x14:
                accumulator = (accumulator - operand) & 0xFFFFFFFF
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += true if accumulator == operand else false
            case 0x06:
                return operand > 0
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


def seen(mark: Mark, layers: Layers) -> list[Sighting]:
    frame = bytes(Ether() / layers)
    record = HEADER.pack(5000, len(frame), len(frame), 0) + frame
    found = list(sightings(record, mark, 3))
    assert not found or is_taken(marked_filter(mark), frame), "the filter lets it through"
    return found


def tunnelled(layers: Layers) -> Layers:
    outer = IP(src="10.59.72.11", dst="10.59.72.12") / UDP(sport=50000, dport=4789)
    return outer / VXLAN(vni=4097) / Ether() / layers


def test_a_tcp_probe_is_a_syn_that_is_known_everywhere() -> None:
    sent = [IP(packet) for packet in packets(TCP_MARK, LEAVES)]
    assert len(sent) == 16
    for number, packet in enumerate(sent):
        assert (packet[TCP].flags, packet[TCP].seq) == ("S", 0xFFFFFFF0 + number)
        assert (packet.src, packet.dst, packet[TCP].dport) == (APP, WEB, 80)
        there = packet[TCP].chksum
        del packet[TCP].chksum
        assert IP(bytes(packet))[TCP].chksum == there
        [plain] = seen(TCP_MARK, packet)
        assert (plain.spot, plain.number, plain.answer, plain.time) == (3, number, False, 5000)
        assert str(plain.packet) == f"tcp {APP}:{61000 + number} > {WEB}:80"
        [inside] = seen(TCP_MARK, tunnelled(packet))
        assert (inside.number, inside.answer) == (number, False)
        assert str(inside.packet) == "udp 10.59.72.11:50000 > 10.59.72.12:4789"


@pytest.mark.parametrize(("flags", "refused"), [("SA", False), ("RA", True)])
def test_its_answer_is_known_by_the_number_that_it_acknowledges(flags: str, refused: bool) -> None:
    for number in (0, 15):
        acknowledged = (0xFFFFFFF0 + number + 1) & 0xFFFFFFFF
        answer = IP(src=WEB, dst=APP) / TCP(sport=80, dport=61000, flags=flags, ack=acknowledged)
        for layers in (answer, tunnelled(answer)):
            [found] = seen(TCP_MARK, layers)
            assert (found.number, found.answer, found.refused) == (number, True, refused)


def test_a_udp_probe_is_one_that_no_program_gets() -> None:
    [packet] = [IP(packet) for packet in packets(UDP_MARK, LEAVES)]
    there = packet[UDP].chksum
    del packet[UDP].chksum
    assert there not in (0, IP(bytes(packet))[UDP].chksum), "the receiving kernel drops it"
    for layers in (packet, tunnelled(packet)):
        [found] = seen(UDP_MARK, layers)
        assert (found.number, found.answer) == (0, False)


@pytest.mark.parametrize(
    "other",
    [
        IP(src=APP, dst=WEB) / TCP(sport=61000, dport=80, flags="R", seq=0xFFFFFFF1),
        IP(src=APP, dst=WEB) / TCP(sport=61000, dport=80, flags="S", seq=0x12345678),
        IP(src=APP, dst=WEB) / UDP(sport=0xFFFF, dport=0xFFF0) / Raw(b"\xff\xff\xff\xf0" * 20),
        IP(src=APP, dst=WEB) / ICMP() / Raw(b"\xff\xff\xff\xf0" * 20),
    ],
    ids=["reset of the sender", "other number", "datagram", "echo"],
)
def test_other_packets_are_not_taken_for_it(other: Layers) -> None:
    assert seen(TCP_MARK, other) == []
