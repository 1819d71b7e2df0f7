"""Encrypts and decrypts a host's packets: a VXLAN datagram leaves encrypted, or not at all; an ESP
packet comes in decrypted, or not at all.

    Sealer   IPv4 packet from the device -> outer headers, VNI, association, number -> destination,
             ESP packet
    Opener   IPv4 packet of protocol 50  -> SPI and source, replay window, ICV, VNI -> IPv4 packet
             for the device

Every dropped packet is counted by its reason, in the order of the checks. The code that sends or
delivers a packet counts it as passed. `linux/esp/esp.c` does the same in C, with TCP segmentation;
the tests keep both equal.
"""

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from weft.esp.packet import UDP, Cipher, Forged, Malformed
from weft.esp.sequence import Block, Numbers
from weft.esp.window import ReplayWindow
from weft.model.addresses import Port, Vni
from weft.model.encryption import Association, IcvBits

COUNTERS = (
    "sealed", "opened", "replayed", "malformed", "forged", "unknown_spi", "wrong_vni", "no_association", "exhausted", "unreserved",
    "lost",
)  # fmt: skip
"""`exhausted`: all numbers of the key are used. `unreserved`: the ledger gave no further numbers.
`lost`: the kernel refused the packet."""

_IP, _UDP, _VXLAN = 20, 8, 8
_LARGEST = 65535 - _IP - 16 - 32
"""Octets of the largest datagram that is still an IP packet when encrypted."""
_FRAGMENT = 0x3FFF
_VNI_VALID = 0x08
"""RFC 7348 section 5: the I flag."""
_spi_and_sequence = struct.Struct("!II").unpack_from
_ip_header = struct.Struct("!BBHHHBBH4s4s")
_u16 = struct.Struct("!H")
_u32 = struct.Struct("!I")


class Sealed(NamedTuple):
    destination: IPv4Address
    packet: bytes
    """The packet from the ESP header on."""


class _Gateway:
    def __init__(self, local: IPv4Address, port: Port) -> None:
        self._local = local.packed
        self._port = port
        self._vnis: Mapping[Vni, IcvBits] = {}
        self.counts = dict.fromkeys(COUNTERS, 0)

    def counters(self) -> dict[str, int]:
        return dict(self.counts)

    def set_vnis(self, vnis: Mapping[Vni, IcvBits]) -> None:
        self._vnis = dict(vnis)

    def _demanded_icv(self, datagram: bytes, at: int) -> int | None:
        """The ICV bits that the VNI of the datagram at `at` demands; None if that VNI is not
        ours."""
        if (
            _u16.unpack_from(datagram, at + 2)[0] != self._port
            or not datagram[at + _UDP] & _VNI_VALID
        ):
            return None
        return self._vnis.get(_u32.unpack_from(datagram, at + _UDP + 4)[0] >> 8)


class _Outbound:
    def __init__(self, association: Association, block: Block) -> None:
        self.association = association
        self.cipher = Cipher(association)
        self.numbers = Numbers(block)


class Sealer(_Gateway):
    """The encrypting side: one association for each peer and length of ICV."""

    def __init__(self, local: IPv4Address, port: Port) -> None:
        super().__init__(local, port)
        self._associations: dict[tuple[bytes, int], _Outbound] = {}
        self.asks = False
        """Some association is half way through its block; the provider of a further block resets
        this."""

    def add(self, association: Association, block: Block) -> None:
        self._associations[association.destination.packed, association.icv_bits] = _Outbound(
            association, block
        )

    def remove(self, association: Association) -> None:
        del self._associations[association.destination.packed, association.icv_bits]

    def extend(self, association: Association, block: Block) -> None:
        self._associations[association.destination.packed, association.icv_bits].numbers.extend(
            block
        )

    def low(self) -> list[Association]:
        """The associations that need a further block soon."""
        return [
            outbound.association
            for outbound in self._associations.values()
            if outbound.numbers.is_low
        ]

    def seal(self, packet: bytes) -> Sealed | None:
        """Encrypts an IPv4 packet that left the stack. None: the packet was dropped and counted."""
        reason, outbound, datagram = self._judge(packet)
        if outbound is None:
            self.counts[reason] += 1
            return None
        sequence = outbound.numbers.take()
        if not sequence:
            self.counts["exhausted" if outbound.numbers.is_exhausted else "unreserved"] += 1
            return None
        self.asks |= sequence == outbound.numbers.low
        return Sealed(outbound.association.destination, outbound.cipher.seal(sequence, datagram))

    def _judge(self, packet: bytes) -> tuple[str, _Outbound | None, bytes]:
        if len(packet) < _IP + _UDP + _VXLAN or packet[0] != 0x45 or packet[9] != UDP:
            return "wrong_vni", None, b""
        icv = (
            None if _u16.unpack_from(packet, 6)[0] & _FRAGMENT else self._demanded_icv(packet, _IP)
        )
        if icv is None:
            return "wrong_vni", None, b""
        outbound = (
            self._associations.get((packet[16:20], icv)) if packet[12:16] == self._local else None
        )
        if outbound is None:
            return "no_association", None, b""
        length = _u16.unpack_from(packet, _IP + 4)[0]
        if not _UDP + _VXLAN <= length <= min(len(packet) - _IP, _LARGEST):
            return "malformed", None, b""
        return "", outbound, packet[_IP : _IP + length]


class _Inbound:
    def __init__(self, association: Association) -> None:
        self.icv_bits = association.icv_bits
        self.cipher = Cipher(association)
        self.window = ReplayWindow()


class Opener(_Gateway):
    """The decrypting side: any number of associations, found by SPI and source."""

    def __init__(self, local: IPv4Address, port: Port) -> None:
        super().__init__(local, port)
        self._associations: dict[tuple[int, bytes], _Inbound] = {}

    def add(self, association: Association) -> None:
        self._associations[association.spi, association.source.packed] = _Inbound(association)

    def remove(self, association: Association) -> None:
        del self._associations[association.spi, association.source.packed]

    def open(self, packet: bytes) -> bytes | None:
        """Takes an IPv4 packet with its header, as a raw socket gives it. Returns the inner packet,
        as if it had come in clear. None: the packet was dropped and counted."""
        header = (packet[0] & 15) * 4 if packet else 0
        if header < _IP or packet[0] >> 4 != 4 or len(packet) < header + 8:
            return self._drop("malformed")
        spi, sequence = _spi_and_sequence(packet, header)
        inbound = self._associations.get((spi, packet[12:16]))
        if inbound is None:
            return self._drop("unknown_spi")
        return self._open(inbound, sequence, packet, header)

    def _open(self, inbound: _Inbound, sequence: int, packet: bytes, header: int) -> bytes | None:
        esp = packet[header:]
        length = len(esp) - 16 - inbound.icv_bits // 8
        if length < 4 or length % 4:
            return self._drop("malformed")
        if not inbound.window.is_fresh(sequence):
            return self._drop("replayed")
        try:
            datagram = inbound.cipher.open(esp)
        except Forged:
            return self._drop("forged")
        except Malformed:
            inbound.window.mark(sequence)
            return self._drop("malformed")
        inbound.window.mark(sequence)
        if len(datagram) < _UDP + _VXLAN or _u16.unpack_from(datagram, 4)[0] != len(datagram):
            return self._drop("malformed")
        if self._demanded_icv(datagram, 0) != inbound.icv_bits:
            return self._drop("wrong_vni")
        return self._restore(packet, datagram)

    def _restore(self, packet: bytes, datagram: bytes) -> bytes:
        """Makes a new IP header; TOS (with its congestion marks) and TTL are those of the received
        packet."""
        fields = [
            0x45,
            packet[1],
            _IP + len(datagram),
            0,
            0,
            packet[8],
            UDP,
            0,
            packet[12:16],
            self._local,
        ]
        fields[7] = _checksum(_ip_header.pack(*fields))
        return _ip_header.pack(*fields) + datagram

    def _drop(self, reason: str) -> bytes | None:
        self.counts[reason] += 1
        return None


def _checksum(header: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
