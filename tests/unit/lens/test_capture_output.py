"""Packets of several nodes: put in order, written as pcapng, shown as lines, and the filters."""

import io
import shutil
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weft.errors import InvalidArgument
from weft.lens.capture.filters import compiled
from weft.lens.capture.lines import Seen, described, line, read
from weft.lens.capture.order import LONGEST, PATIENCE, Order, Timed
from weft.lens.capture.pcapng import Writer
from weft.model.capture import HEADER, CaptureFrame, NodePackets, records

START = 1_700_000_000 * 10**9
WEB, DB = "10.0.1.3", "10.0.1.4"
NAMES = {WEB: "web.1", DB: "db"}


def record(time: int, data: bytes = b"x" * 60, sent: bool = False) -> bytes:
    return HEADER.pack(time, len(data), len(data), sent) + data


def told(node: str, now: int, *times: int, ahead: int = 0, caught_up: bool = True) -> NodePackets:
    data = b"".join(record(time) for time in times)
    frame = CaptureFrame(
        now=now, caught_up=caught_up, opened=((0, "vxlan0"),), packets=((0, data),)
    )
    return NodePackets(node, ahead, frame)


def ipv4(protocol: int, inner: bytes, fragment: int = 0) -> bytes:
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(inner), 1, fragment, 64, protocol, 0,
        IPv4Address(WEB).packed, IPv4Address(DB).packed,
    )  # fmt: skip
    return bytes(12) + b"\x08\x00" + head + inner


def tcp(flags: int) -> bytes:
    return ipv4(6, struct.pack(">HHIIBBHHH", 39120, 5432, 1, 0, 0x50, flags, 1000, 0, 0))


# --- records


def test_records_are_what_was_written() -> None:
    data = record(1, b"ab") + record(2, b"", sent=True)
    assert list(records(data)) == [(1, 2, 0, b"ab"), (2, 0, 1, b"")]


@given(st.binary(max_size=60))
def test_any_other_data_is_refused_or_read_to_its_end(data: bytes) -> None:
    try:
        found = list(records(data))
    except InvalidArgument:
        return
    assert sum(HEADER.size + len(kept) for *_, kept in found) == len(data)


# --- order


def test_packets_come_in_the_order_of_their_times() -> None:
    order = Order(read)
    given = (
        told("n1", START + 40, START + 10, START + 30),
        told("n2", START + 50, START + 20, START + 40),
    )
    assert [packet for each in given for packet in order.add(each)] == []
    assert [place[:2] for _, (place, _) in order.rest()] == ["n1", "n2", "n1", "n2"]


def test_a_packet_waits_only_until_nothing_earlier_can_come() -> None:
    order = Order(read)
    assert list(order.add(told("n1", START + 1, START))) == []
    assert list(order.add(told("n2", START + PATIENCE + 1))) == []
    later = order.add(told("n1", START + PATIENCE + 1))
    assert [time for time, _ in later] == [START]


def test_a_node_that_has_more_to_tell_is_waited_for_but_not_for_ever() -> None:
    order = Order(read)
    later = START + LONGEST
    order.add(told("n1", START, START))
    order.add(told("n2", later - 1, START + 1, caught_up=False))
    assert not order.has_told(START)
    assert order.add(told("n1", later - 1)) == []
    assert [time for time, _ in order.add(told("n1", later))] == [START]
    order.forget("n2")
    assert order.has_told(START)


def test_clocks_are_corrected() -> None:
    order = Order(read)
    ahead = 5 * 10**9
    list(order.add(told("n1", START + ahead + 20, START + ahead + 10, ahead=ahead)))
    list(order.add(told("n2", START + 20, START + 11)))
    assert [(place[:2], time - START) for time, (place, _) in order.rest()] == [
        ("n1", 10),
        ("n2", 11),
    ]


@given(st.lists(st.lists(st.integers(0, 100), max_size=5), max_size=5))
def test_no_packet_is_lost(blocks: list[list[int]]) -> None:
    order, seen = Order(read), list[Timed[Seen]]()
    for number, block in enumerate(blocks):
        seen += order.add(
            told(f"n{number}", START + number * PATIENCE, *(START + t for t in block))
        )
    seen += order.rest()
    assert sorted(time for time, _ in seen) == sorted(START + t for block in blocks for t in block)


# --- pcapng


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(data):
        kind, length = struct.unpack_from("<II", data, at)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, at + length - 4) == (length,)
        yield kind, data[at + 8 : at + length - 4]
        at += length


def written(*packets: tuple[str, bytes]) -> bytes:
    out = io.BytesIO()
    writer = Writer(out, "weft", 65535)
    writer.names([(WEB, "web.1"), (DB, "db")])
    for node, data in packets:
        writer.write(writer.read(f"{node}/eth0", record(START, data, sent=True), 0))
    writer.lost("n1/eth0", 7, START)
    return out.getvalue()


def test_each_place_is_described_once_and_before_its_packets() -> None:
    found = list(blocks(written(*((n, tcp(2)) for n in ("n1", "n2", "n1")))))
    assert [kind for kind, _ in found] == [0x0A0D0D0A, 4, 1, 6, 1, 6, 6, 5]
    assert [struct.unpack_from("<I", body)[0] for kind, body in found if kind == 6] == [0, 1, 0]


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 61, 1514])
def test_a_packet_is_kept_whatever_its_length(length: int) -> None:
    data = bytes(i % 256 for i in range(length))
    body = next(body for kind, body in blocks(written(("n1", data))) if kind == 6)
    _, high, low, kept, original = struct.unpack_from("<IIIII", body)
    assert (high << 32 | low, kept, original) == (START, length, length)
    assert body[20 : 20 + length] == data


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="needs tcpdump")
def test_tcpdump_reads_it(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(written(("n1", tcp(2)), ("n2", tcp(0x12))))
    read = subprocess.run(
        ["tcpdump", "-n", "-tt", "-r", tmp_path / "f"], capture_output=True, text=True, check=True
    )
    assert [shown.split()[1:5] for shown in read.stdout.splitlines()] == [
        ["IP", "10.0.1.3.39120", ">", "10.0.1.4.5432:"]
    ] * 2
    assert read.stdout.startswith("1700000000.000000 ")


# --- lines


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (tcp(0x02), "tcp web.1:39120 > db:5432 [S]"),
        (tcp(0x12), "tcp web.1:39120 > db:5432 [S.]"),
        (ipv4(17, struct.pack(">HHHH", 53, 1024, 8, 0)), "udp web.1:53 > db:1024"),
        (ipv4(1, b"\x08\0\0\0"), "icmp web.1 > db echo request"),
        (ipv4(1, b"\x05\0\0\0"), "icmp web.1 > db type 5"),
        (ipv4(17, b"data", fragment=100), "udp web.1 > db fragment"),
        (ipv4(50, b"\xf4\x22\x48\xbc"), "esp web.1 > db spi f42248bc"),
        (ipv4(6, b""), "tcp web.1 > db"),
        (ipv4(99, b""), "protocol 99 web.1 > db"),
        (bytes(12) + b"\x88\xcc" + bytes(40), "ethertype 0x88cc"),
        (b"short", "cut short"),
    ],
)
def test_what_a_frame_carries(frame: bytes, words: str) -> None:
    assert described(frame, NAMES) == words


@given(st.binary(max_size=80))
def test_whatever_was_captured_has_a_line(data: bytes) -> None:
    assert line(START, ("n1/eth0", (START, len(data), 1, data)), NAMES).isprintable()


# --- filters


def test_a_filter_is_a_program_that_keeps_so_many_bytes() -> None:
    assert compiled("", 96) == ((6, 0, 0, 96),)
    assert (6, 0, 0, 96) in compiled("tcp port 80 and host 10.0.1.3", 96)


@pytest.mark.parametrize("wrong", ["nonsense and", "port web port", "host"])
def test_a_wrong_filter_is_refused_with_the_cause(wrong: str) -> None:
    with pytest.raises(InvalidArgument, match=f"cannot use filter '{wrong}': "):
        compiled(wrong, 96)
