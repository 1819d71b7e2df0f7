"""The C helper's segmentation and joining of TCP: bytes that come out are those that went in, with
right headers and checksums.

Whole frames are cut by the sealer, opened by the Python implementation, and read by scapy; then
they go through the opener's loop over a pair of sockets, which joins them, and what it gives to the
device is cut again here.
"""

import os
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from weft.esp.gateway import Opener
from weft.esp.packet import Cipher
from weft.esp.sequence import Block
from weft.linux.esp import helper
from weft.linux.esp.build import LIBRARY
from weft.linux.esp.tap import ETHERTYPE_IPV4, MAC, OFFLOAD_HEADER
from weft.model.encryption import Association

PATH = Path(os.environ.get("WEFT_ESP_LIBRARY", LIBRARY))
pytestmark = pytest.mark.skipif(not PATH.exists(), reason="the C helper is not built")

A, B = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
PORT, VNI = 4789, 4097
ASSOCIATION = Association(
    spi=0xC0FFEE, source=A, destination=B, key=bytes(range(20)), icv_bits=64, tag=1
)
NEEDS_CHECKSUM, TCP_IN_TUNNEL = 1, 0x21
ETHERNET, INNER_IP = 14, 14 + 20 + 8 + 8 + 14
Segment = tuple[int, bytes, dict[str, Any], bool]
"""Sequence number, payload, fields of the header, and whether its checksum is made wrong."""
fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def offload_header(
    flags: int = 0,
    kind: int = 0,
    size: int = 0,
    start: int = 0,
    field: int = 0,
    inner: int = INNER_IP,
) -> bytes:
    packed = struct.pack(
        "=BBHHHHH8xHH", flags, kind, 0, size, start, field, 0, ETHERNET + 20, inner
    )
    assert len(packed) == OFFLOAD_HEADER
    return packed


def overlay(inner: Packet) -> bytes:
    outer = IP(src=str(A), dst=str(B)) / UDP(sport=50000, dport=PORT, chksum=0)
    return bytes(
        outer
        / VXLAN(vni=VNI, flags=8)
        / Ether(src="02:42:0a:00:00:01", dst="02:42:0a:00:00:02")
        / inner
    )


def segment(sequence: int, payload: bytes, **fields: Any) -> Packet:
    values: dict[str, Any] = {
        "sport": 1000,
        "dport": 2000,
        "flags": "A",
        "ack": 77,
        "window": 500,
        "options": [("NOP", None)] * 12,
        **fields,
    }
    return IP(src="10.0.0.1", dst="10.0.0.2", id=9) / TCP(seq=sequence, **values) / Raw(payload)


def sealer() -> helper.HelperSealer:
    made = helper.HelperSealer(A, PORT, OFFLOAD_HEADER, -1, helper.load(PATH))
    made.set_vnis({VNI: 64})
    made.add(ASSOCIATION, Block(1, 1 << 20))
    return made


def opened(packets: Sequence[bytes]) -> list[bytes | None]:
    receive = Opener(B, PORT)
    receive.set_vnis({VNI: 64})
    receive.add(ASSOCIATION)
    return [receive.open(bytes(IP(src=str(A), dst=str(B), proto=50) / Raw(esp))) for esp in packets]


def all_opened(packets: Sequence[bytes]) -> list[bytes]:
    """Where every one has to be good."""
    found = []
    for packet in opened(packets):
        assert packet is not None
        found.append(packet)
    return found


def inner_of(packet: bytes) -> Packet:
    return IP(packet[20 + 8 + 8 + 14 :])


def checksums_are_right(ip: Packet) -> bool:
    again = ip.copy()
    del again.chksum, again[TCP].chksum
    again = IP(bytes(again))
    return (ip.chksum, ip[TCP].chksum, ip.len) == (again.chksum, again[TCP].chksum, again.len)


@given(
    payload=st.binary(min_size=1, max_size=9000),
    size=st.integers(1, 1400),
    first=st.integers(0, 2**32 - 1),
)
@fuzz
def test_segments_carry_the_whole(payload: bytes, size: int, first: int) -> None:
    whole = overlay(segment(first, payload, flags="PAFC"))
    header = offload_header(NEEDS_CHECKSUM, TCP_IN_TUNNEL, size, INNER_IP + 20, 16)
    # A checksum of the outer UDP header that fits no segment.
    whole = whole[:26] + b"\x12\x34" + whole[28:]
    packets = all_opened(sealer().seal_frame(header + MAC + MAC + ETHERTYPE_IPV4 + whole))
    inner = [inner_of(packet) for packet in packets]
    assert all(IP(packet)[UDP].chksum == 0 for packet in packets)
    assert b"".join(bytes(ip[TCP].payload) for ip in inner) == payload
    assert [ip[TCP].seq for ip in inner] == [
        (first + at) % 2**32 for at in range(0, len(payload), size)
    ]
    assert [ip.id for ip in inner] == [(9 + k) % 2**16 for k in range(len(inner))]
    # Push and FIN belong to the end, CWR (RFC 3168 section 6.1.2) to the beginning.
    flags = [
        set("A") | set("PF" if k == len(inner) - 1 else "") | set("" if k else "C")
        for k in range(len(inner))
    ]
    assert [set(str(ip[TCP].flags)) for ip in inner] == flags
    assert all(checksums_are_right(ip) for ip in inner[:20])
    assert all(IP(packet)[UDP].len == len(packet) - 20 for packet in packets)


@given(payload=st.binary(max_size=1300))
@fuzz
def test_checksum_that_was_left_to_us(payload: bytes) -> None:
    inner = segment(5, payload)
    right = bytes(inner)
    pseudo = struct.pack(
        "!4s4sBBH", bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), 0, 6, len(right) - 20
    )
    total = sum(struct.unpack("!6H", pseudo))
    partial = (total & 0xFFFF) + (total >> 16)
    frame = overlay(Raw(right[:36] + struct.pack("!H", partial) + right[38:]))
    frame = frame[: 20 + 8 + 8 + 12] + ETHERTYPE_IPV4 + frame[20 + 8 + 8 + 14 :]
    header = offload_header(NEEDS_CHECKSUM, 0, 0, INNER_IP + 20, 16)
    [packet] = all_opened(sealer().seal_frame(header + MAC + MAC + ETHERTYPE_IPV4 + frame))
    assert checksums_are_right(inner_of(packet))


numbers = st.one_of(st.integers(0, 200), st.integers(0, 65535))


@given(
    flags=st.integers(0, 255), kind=st.sampled_from([0, TCP_IN_TUNNEL, 0xA1, 1, 0x61]), size=numbers, start=numbers, field=numbers,
    inner=numbers, payload=st.integers(0, 3000), cut=st.integers(0, 3200),
    changed=st.dictionaries(st.integers(0, 150), st.integers(0, 255), max_size=4),
)  # fmt: skip
@fuzz
def test_no_frame_is_too_strange(
    flags: int,
    kind: int,
    size: int,
    start: int,
    field: int,
    inner: int,
    payload: int,
    cut: int,
    changed: dict[int, int],
) -> None:
    """Whatever the header says: either nothing leaves, or packets that open."""
    frame = bytearray(MAC + MAC + ETHERTYPE_IPV4 + overlay(segment(1, bytes(payload))))
    for at, value in changed.items():
        frame[at % len(frame)] = value
    header = offload_header(flags, kind, size, start, field, inner)
    assert (
        None
        not in opened(
            sealer().seal_frame((header + frame)[: max(len(frame) - cut, 0) + OFFLOAD_HEADER])[:300]
        )
        or changed
    )


class Joins:
    """The opener's loop between two pairs of sockets, for one pass."""

    def __init__(self) -> None:
        self.opener = helper.HelperOpener(B, PORT, OFFLOAD_HEADER, MAC, helper.load(PATH))
        self.opener.set_vnis({VNI: 64})
        self.opener.add(ASSOCIATION)
        self.cipher, self.sequence = Cipher(ASSOCIATION), 0

    def __call__(self, packets: Sequence[bytes]) -> list[bytes]:
        wire, raw = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        tap, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        wake = os.eventfd(1)
        with wire, raw, tap, kernel:
            for end in (wire, tap, kernel):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
                end.setblocking(False)
            frames = []
            for packet in packets:
                self.sequence += 1
                esp = self.cipher.seal(self.sequence, packet[20:])
                wire.send(bytes(IP(src=str(A), dst=str(B), proto=50) / Raw(esp)))
                if self.sequence % 8 == 0:
                    frames += self._pass(tap, raw, wake, kernel)
            frames += self._pass(tap, raw, wake, kernel)
        os.close(wake)
        return frames

    def _pass(
        self, tap: socket.socket, raw: socket.socket, wake: int, kernel: socket.socket
    ) -> list[bytes]:
        self.opener.run(tap.fileno(), raw.fileno(), wake)
        frames = []
        try:
            while True:
                frames.append(kernel.recv(1 << 17))
        except BlockingIOError:
            return frames


@st.composite
def stream(draw: st.DrawFn) -> list[Segment]:
    """TCP segments, most of which follow each other."""
    at = draw(st.sampled_from([1, 2**32 - 2000]))
    made: list[Segment] = []
    for _ in range(draw(st.integers(1, 20))):
        length = draw(st.sampled_from([1000, 1000, 1000, 400, 0]))
        fields: dict[str, Any] = draw(
            st.sampled_from(
                [
                    {},
                    {},
                    {},
                    {"flags": "PA"},
                    {"flags": "FA"},
                    {"window": 9},
                    {"sport": 5},
                    {"ack": 78},
                ]
            )
        )
        made.append(
            (at % 2**32, bytes([len(made) + 1]) * length, fields, draw(st.integers(0, 9)) == 0)
        )
        at += draw(st.sampled_from([length, length, length, length + 10]))
    return made


def cut_again(frame: bytes) -> list[tuple[int, bytes]]:
    """(sequence, payload) of each segment that the kernel would make of a frame."""
    flags, kind, _, size, start, field = struct.unpack_from("=BBHHHH", frame)
    ip = IP(frame[OFFLOAD_HEADER + ETHERNET :])
    inner = inner_of(bytes(ip))
    assert ip.len == len(frame) - OFFLOAD_HEADER - ETHERNET
    assert ip[UDP].len == ip.len - 20
    assert inner.len == ip.len - 50
    payload = bytes(inner[TCP].payload)
    if not kind:
        return [(inner[TCP].seq, payload)]
    assert (flags, kind, start, field) == (NEEDS_CHECKSUM, TCP_IN_TUNNEL, INNER_IP + 20, 16)
    assert len(payload) > size > 0
    return [
        ((inner[TCP].seq + at) % 2**32, payload[at : at + size])
        for at in range(0, len(payload), size)
    ]


@given(stream())
@fuzz
def test_joined_segments_are_the_same(segments: list[Segment]) -> None:
    packets = []
    for at, payload, fields, broken in segments:
        packet = bytearray(overlay(segment(at, payload, **fields)))
        if broken:
            packet[-1] ^= 1
        packets.append(bytes(packet))
    frames = Joins()(packets)
    expected = [(inner[TCP].seq, bytes(inner[TCP].payload)) for inner in map(inner_of, packets)]
    assert [each for frame in frames for each in cut_again(frame)] == expected
    for frame in frames:
        assert not frame[1] or checksum_of_headers_is_right(frame)


def checksum_of_headers_is_right(frame: bytes) -> bool:
    """Of the inner IP header; TCP's is left to the kernel, and hides none that was wrong: those are
    not joined."""
    inner = inner_of(frame[OFFLOAD_HEADER + ETHERNET :])
    again = inner.copy()
    del again.chksum
    return bool(inner.chksum == IP(bytes(again)).chksum)


def test_a_run_becomes_one_frame() -> None:
    packets = [overlay(segment(1 + 1000 * k, bytes(1000))) for k in range(7)]
    [frame] = Joins()(packets)
    assert len(cut_again(frame)) == 7


def test_a_wrong_checksum_is_not_hidden() -> None:
    packets = [bytearray(overlay(segment(1 + 1000 * k, bytes(1000)))) for k in range(3)]
    packets[1][-1] ^= 1
    frames = Joins()([bytes(p) for p in packets])
    assert [frame[1] for frame in frames] == [0, 0, 0]
    assert frames[1].endswith(bytes(packets[1][20:]))
