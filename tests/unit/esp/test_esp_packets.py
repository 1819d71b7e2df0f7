"""ESP packets of both implementations against each other, scapy and tshark; and what becomes of
packets that are not right."""

import os
import shutil
import struct
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import ciphers
from cryptography.hazmat.primitives.ciphers import algorithms, modes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

from weft.esp.gateway import COUNTERS, Opener, Sealer
from weft.esp.packet import Cipher
from weft.esp.sequence import END, Block
from weft.esp.window import WINDOW, ReplayWindow
from weft.linux.esp import helper
from weft.linux.esp.build import LIBRARY
from weft.linux.esp.tap import ETHERTYPE_IPV4, MAC
from weft.model.encryption import Association, IcvBits

A, B, C = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"), IPv4Address("192.0.2.3")
PORT = 4789
MANY = Block(1, 1 << 20)
VNIS: dict[IcvBits, int] = {64: 4097, 128: 5000}
PATH = Path(os.environ.get("WEFT_ESP_LIBRARY", LIBRARY))
"""Another one is given to run these tests under a sanitizer."""
IMPLEMENTATIONS = ["python", "helper"] if PATH.exists() else ["python"]
KINDS = [(bits, icv) for bits in (128, 256) for icv in VNIS]
each_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
each_kind = pytest.mark.parametrize(("bits", "icv"), KINDS)
needs_helper = pytest.mark.skipif(not PATH.exists(), reason="the C helper is not built")
fuzz = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])


def association(bits: int = 128, icv: IcvBits = 64, **changes: object) -> Association:
    key = bytes(range(bits // 8 + 4))
    made = Association(spi=0xC0FFEE, source=A, destination=B, key=key, icv_bits=icv, tag=1)
    return msgspec.structs.replace(made, **changes)


class Sends:
    """A sealer of either implementation, with associations to B for both lengths of ICV."""

    def __init__(
        self, implementation: str, *associations: Association, block: Block = MANY, header: int = 0
    ) -> None:
        self.header = header
        self.sealer: Sealer | helper.HelperSealer = (
            Sealer(A, PORT)
            if implementation == "python"
            else helper.HelperSealer(A, PORT, header, -1, helper.load(PATH))
        )
        self.sealer.set_vnis({vni: icv for icv, vni in VNIS.items()})
        for each in associations or (association(),):
            self.sealer.add(each, block)

    def __call__(self, packet: bytes) -> bytes | None:
        if isinstance(self.sealer, Sealer):
            sealed = self.sealer.seal(packet)
            return None if sealed is None else sealed.packet
        found = self.sealer.seal_frame(bytes(self.header) + MAC + MAC + ETHERTYPE_IPV4 + packet)
        return found[0] if found else None

    def sealed(self, packet: bytes) -> bytes:
        """Of a packet that has to leave."""
        found = self(packet)
        assert found is not None
        return found

    def drops(self) -> dict[str, int]:
        return {name: n for name, n in self.sealer.counters().items() if n}


def opener(implementation: str, *associations: Association) -> Opener | helper.HelperOpener:
    made: Opener | helper.HelperOpener = (
        Opener(B, PORT)
        if implementation == "python"
        else helper.HelperOpener(B, PORT, 0, MAC, helper.load(PATH))
    )
    made.set_vnis({vni: icv for icv, vni in VNIS.items()})
    for each in associations or (association(),):
        made.add(each)
    return made


def drops(half: Sealer | Opener | helper.HelperSealer | helper.HelperOpener) -> dict[str, int]:
    return {name: n for name, n in half.counters().items() if n}


def overlay_packet(
    size: int = 100,
    icv: IcvBits = 64,
    vni: int | None = None,
    port: int = PORT,
    source: IPv4Address = A,
    destination: IPv4Address = B,
) -> bytes:
    inner = (
        Ether(src="02:42:0a:00:00:01", dst="02:42:0a:00:00:02")
        / IP(src="10.0.0.1", dst="10.0.0.2")
        / UDP()
        / Raw(bytes(size))
    )
    outer = IP(src=str(source), dst=str(destination), ttl=64, id=7) / UDP(sport=50000, dport=port)
    return bytes(outer / VXLAN(vni=VNIS[icv] if vni is None else vni, flags=8) / inner)


def on_wire(
    esp: bytes, source: IPv4Address = A, destination: IPv4Address = B, tos: int = 0, ttl: int = 64
) -> bytes:
    return bytes(IP(src=str(source), dst=str(destination), proto=50, tos=tos, ttl=ttl) / Raw(esp))


def same(found: bytes | None, packet: bytes) -> None:
    """The IP header is made anew; the datagram is what it was."""
    assert found is not None
    ip, old = IP(found), IP(packet)
    assert found[20:] == packet[20:]
    assert (ip.src, ip.dst, ip.proto, ip.len, ip.ttl) == (old.src, old.dst, 17, len(packet), 64)
    assert ip.chksum == recomputed(ip)


def recomputed(ip: Packet) -> int:
    again = ip.copy()
    del again.chksum
    return int(IP(bytes(again)).chksum)


def scapy_association(made: Association) -> Any:
    """Its AES-GCM knows the full ICV only; and it has no types."""
    return SecurityAssociation(  # type: ignore[no-untyped-call]  # scapy's has no types
        ESP, spi=made.spi, crypt_algo="AES-GCM", crypt_key=made.key, auth_algo="NULL"
    )


@each_implementation
@pytest.mark.parametrize("bits", [128, 256])
@given(size=st.integers(0, 1400))
@fuzz
def test_scapy_opens_ours(implementation: str, bits: int, size: int) -> None:
    made, packet = association(bits, 128), overlay_packet(size, 128)
    found = scapy_association(made).decrypt(IP(on_wire(Sends(implementation, made).sealed(packet))))
    assert bytes(found[UDP]) == packet[20:]


@each_implementation
@pytest.mark.parametrize("bits", [128, 256])
@given(size=st.integers(0, 1400))
@fuzz
def test_openssl_opens_ours_with_a_short_icv(implementation: str, bits: int, size: int) -> None:
    """By the general interface, which takes shorter tags."""
    made, packet = association(bits, 64), overlay_packet(size, 64)
    esp = Sends(implementation, made).sealed(packet)
    assert (len(esp) - 16 - 8) % 4 == 0
    mode = modes.GCM(made.key[-4:] + esp[8:16], esp[-8:], min_tag_length=8)
    decryptor = ciphers.Cipher(algorithms.AES(made.key[:-4]), mode).decryptor()
    decryptor.authenticate_additional_data(esp[:8])
    text = decryptor.update(esp[16:-8]) + decryptor.finalize()
    padding = -(len(packet) - 20 + 2) % 4
    assert text == packet[20:] + bytes(range(1, padding + 1)) + bytes((padding, 17))


@each_implementation
@each_kind
@given(size=st.integers(0, 1400), sequence=st.integers(1, 2**32 - 1))
@fuzz
def test_ours_opens_scapys(
    implementation: str, bits: int, icv: IcvBits, size: int, sequence: int
) -> None:
    made, packet = association(bits, icv), overlay_packet(size, icv)
    sealed = scapy_association(made).encrypt(
        IP(packet), seq_num=sequence, iv=struct.pack("!Q", sequence * 77)
    )
    # A short ICV is the first octets of the full one (NIST SP 800-38D section 5.2.1.2).
    same(opener(implementation, made).open(bytes(sealed)[: -8 if icv == 64 else None]), packet)


@each_implementation
@pytest.mark.parametrize("icv", [64, 128])
@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_opens_ours(implementation: str, icv: IcvBits, tmp_path: Path) -> None:
    made = association(icv=icv)
    send = Sends(implementation, made)
    wrpcap(
        str(tmp_path / "esp.pcap"),
        [IP(on_wire(send.sealed(overlay_packet(size, icv)))) for size in (0, 1, 2, 3, 1400)],
    )
    name = {64: "AES-GCM with 8 octet ICV [RFC4106]", 128: "AES-GCM with 16 octet ICV [RFC4106]"}[
        icv
    ]
    row = f'"IPv4","{A}","{B}","{made.spi:#010x}","{name}","0x{made.key.hex()}","NULL",""'
    command = ["tshark", "-r", str(tmp_path / "esp.pcap"), "-o", "esp.enable_encryption_decode:TRUE", "-o", f"uat:esp_sa:{row}",
               "-T", "fields", "-e", "vxlan.vni", "-e", "udp.length", "-e", "esp.icv_good"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[:2] for row in rows] == [
        [str(VNIS[icv]), f"{38 + size + 20},{size + 8}"] for size in (0, 1, 2, 3, 1400)
    ]


@each_implementation
@each_kind
def test_round_trip_with_the_other(implementation: str, bits: int, icv: IcvBits) -> None:
    made = association(bits, icv)
    send = Sends(implementation, made)
    for other in IMPLEMENTATIONS:
        receive = opener(other, made)
        for size in (*range(9), 1400, 60000):
            packet = overlay_packet(size, icv)
            same(receive.open(on_wire(send.sealed(packet))), packet)
        assert drops(receive) == {}


@each_implementation
def test_congestion_marks_and_ttl_survive(implementation: str) -> None:
    packet = overlay_packet()
    found = opener(implementation).open(on_wire(Sends(implementation).sealed(packet), tos=3, ttl=9))
    assert found is not None
    assert (found[1], found[8]) == (3, 9)


# --- what is dropped, and how it is counted


@each_implementation
@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (overlay_packet(vni=1), "wrong_vni"),
        (overlay_packet(port=4790), "wrong_vni"),
        (overlay_packet()[:27] + b"\0" + overlay_packet()[28:], "malformed"),
        (bytes(IP(src=str(A), dst=str(B)) / TCP()), "wrong_vni"),
        (b"", "wrong_vni"),
        (overlay_packet()[:35], "wrong_vni"),
        (overlay_packet(destination=C), "no_association"),
        (overlay_packet(source=C), "no_association"),
        (overlay_packet(icv=128), "no_association"),
        (overlay_packet()[:-1], "malformed"),
    ],
)
def test_nothing_else_leaves(implementation: str, packet: bytes, reason: str) -> None:
    send = Sends(implementation)
    broken = packet
    if reason == "malformed" and len(packet) == len(overlay_packet()):
        broken = packet[:24] + b"\x00\x08" + packet[26:]
    assert send(broken) is None
    assert send.drops() == {reason: 1}


@each_implementation
@each_kind
def test_each_changed_octet_is_noticed(implementation: str, bits: int, icv: IcvBits) -> None:
    made = association(bits, icv)
    esp = Sends(implementation, made).sealed(overlay_packet(10, icv))
    receive = opener(implementation, made)
    for at in range(4, len(esp)):
        changed = esp[:at] + bytes([esp[at] ^ 0x80]) + esp[at + 1 :]
        assert receive.open(on_wire(changed)) is None
    assert drops(receive) == {"forged": len(esp) - 4}
    assert receive.open(on_wire(esp)) is not None, "forged packets do not move the window"


@each_implementation
@each_kind
def test_truncated_replayed_wrong_spi(implementation: str, bits: int, icv: IcvBits) -> None:
    made = association(bits, icv)
    esp = Sends(implementation, made).sealed(overlay_packet(10, icv))
    receive = opener(implementation, made)
    for length in range(8, len(esp)):
        assert receive.open(on_wire(esp[:length])) is None
    assert receive.open(on_wire(b"\xc0\xff\xee\x00" + esp[4:])) is None
    assert receive.open(on_wire(esp, source=C)) is None
    assert receive.open(b"") is None
    assert receive.open(on_wire(esp)[:27]) is None
    assert receive.open(on_wire(esp)) is not None
    assert receive.open(on_wire(esp)) is None
    found = drops(receive)
    assert (found["unknown_spi"], found["replayed"]) == (2, 1)
    assert found["malformed"] + found["forged"] == len(esp) - 8 + 2


@each_implementation
@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        (overlay_packet(vni=1)[20:], "wrong_vni"),
        (overlay_packet(icv=128)[20:], "wrong_vni"),
        (overlay_packet(port=53)[20:], "wrong_vni"),
        (overlay_packet()[20:28] + b"\0" + overlay_packet()[29:], "wrong_vni"),
        (overlay_packet()[20:] + b"\0", "malformed"),
        (overlay_packet()[20:30], "malformed"),
    ],
)
def test_what_a_peer_may_not_send(implementation: str, inside: bytes, reason: str) -> None:
    receive = opener(implementation)
    assert receive.open(on_wire(Cipher(association()).seal(5, inside))) is None
    assert drops(receive) == {reason: 1}


@each_implementation
@pytest.mark.parametrize(
    "trailer", [b"\x00\x04", b"\x02\x01\x02\x11", b"\x01\x02\x00\x02\x11", b"\xff\x11"]
)
def test_wrong_padding_and_next_header(implementation: str, trailer: bytes) -> None:
    made, text = association(icv=128), overlay_packet(icv=128)[20:] + trailer
    text = bytes(-len(text) % 4) + text
    cipher = Cipher(made)
    header = struct.pack("!IIQ", made.spi, 1, 1)
    packet = header + cipher._gcm.encrypt(made.key[-4:] + header[8:], text, header[:8])
    receive = opener(implementation, made)
    assert receive.open(on_wire(packet)) is None
    assert drops(receive) == {"malformed": 1}


# --- numbers


@each_implementation
def test_numbers_end(implementation: str) -> None:
    send = Sends(implementation, block=Block(END - 2, END))
    assert [struct.unpack_from("!I", send.sealed(overlay_packet()), 4)[0] for _ in range(2)] == [
        END - 2,
        END - 1,
    ]
    assert send(overlay_packet()) is None
    assert send.drops() == {"exhausted": 1}


@each_implementation
def test_numbers_come_in_blocks(implementation: str) -> None:
    send = Sends(implementation, block=Block(1, 5))
    numbers = []
    for k in range(10):
        assert bool(send.sealer.low()) == (k == 2 or k >= 5)
        if k == 2:
            send.sealer.extend(association(), Block(100, 103))
        esp = send(overlay_packet())
        numbers.append(struct.unpack_from("!I", esp, 4)[0] if esp else None)
    assert numbers == [1, 2, 3, 4, 100, 101, 102, None, None, None]
    assert send.drops() == {"unreserved": 3}
    assert send.sealer.low() == [association()]


near = st.integers(1, 3 * WINDOW)
sequences = st.lists(st.one_of(near, st.integers(0, 2**32 - 1)), max_size=60)


@given(sequences)
@fuzz
def test_replay_window_is_a_set(numbers: list[int]) -> None:
    window = ReplayWindow()
    seen: set[int] = set()
    for number in numbers:
        top = max(seen, default=0)
        fresh = number > 0 and number not in seen and number > top - WINDOW
        assert window.is_fresh(number) == fresh
        if fresh:
            window.mark(number)
            seen.add(number)


@each_implementation
@given(
    start=st.integers(1, 70 * 64), steps=st.lists(st.integers(-WINDOW - 2, WINDOW + 2), max_size=40)
)
@fuzz
def test_replay_window_of_openers(implementation: str, start: int, steps: list[int]) -> None:
    made = association()
    receive, cipher, inside = opener(implementation, made), Cipher(made), overlay_packet(0)[20:]
    seen: set[int] = set()
    number = start
    for step in (0, *steps):
        number = max(number + step, 0)
        top = max(seen, default=0)
        fresh = number > 0 and number not in seen and number > top - WINDOW
        assert (receive.open(on_wire(cipher.seal(number, inside))) is not None) == fresh
        if fresh:
            seen.add(number)


@each_implementation
def test_window_is_whole_wherever_it_begins(implementation: str) -> None:
    cipher, inside = Cipher(association()), overlay_packet(0)[20:]
    for start in range(1, 130):
        receive = opener(implementation)
        numbers = (start, start + WINDOW - 1, start, start + 1, start + WINDOW, start)
        found = [
            receive.open(on_wire(cipher.seal(number, inside))) is not None for number in numbers
        ]
        assert found == [True, True, False, True, True, False]


# --- the helper against the Python implementation


@st.composite
def mutated(draw: st.DrawFn, packet: bytes) -> bytes:
    """Cut, lengthened or with some octets changed."""
    data = bytearray(packet)
    for _ in range(draw(st.integers(0, 4))):
        if data:
            data[draw(st.integers(0, min(len(data) - 1, 120)))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)))
    return bytes(draw(st.sampled_from([data, data[:cut], data + bytes(cut % 9)])))


@needs_helper
@given(data=st.data(), icv=st.sampled_from([64, 128]), size=st.integers(0, 60))
@fuzz
def test_openers_agree_on_hostile_packets(data: st.DataObject, icv: IcvBits, size: int) -> None:
    made = association(icv=icv)
    receivers = [opener(each, made) for each in IMPLEMENTATIONS]
    cipher = Cipher(made)
    for sequence in range(1, 4):
        inside = data.draw(mutated(overlay_packet(size, icv)[20:]))
        packet = data.draw(mutated(on_wire(cipher.seal(sequence, inside))))
        assert receivers[0].open(packet) == receivers[1].open(packet)
    assert drops(receivers[0]) == drops(receivers[1])


@needs_helper
@given(data=st.data(), icv=st.sampled_from([64, 128]), size=st.integers(0, 60))
@fuzz
def test_sealers_agree_on_any_packet(data: st.DataObject, icv: IcvBits, size: int) -> None:
    senders = [Sends(each, association(icv=icv)) for each in IMPLEMENTATIONS]
    for _ in range(3):
        packet = data.draw(mutated(overlay_packet(size, icv)))
        assert senders[0](packet) == senders[1](packet)
    assert senders[0].drops() == senders[1].drops()


def test_counters_have_the_same_names() -> None:
    for half in (Sealer(A, PORT), Opener(B, PORT)):
        assert tuple(half.counters()) == COUNTERS
