"""One ESP packet (RFC 4303 section 2) with AES-GCM (RFC 4106): turns a UDP datagram into bytes and
back, without any state.

    SPI 4 | sequence 4 | IV 8 | datagram | padding 0-3 | its length 1 | next header 1 | ICV 8 or 16

The IV is the sequence number in 64 bits, so a nonce repeats only if a sequence number does
(`sequence.py` prevents that). The content of a packet is checked only after its ICV was right.
"""

import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from weft.model.encryption import Association

PROTOCOL = 50
UDP = 17
HEADER = 16
"""SPI, sequence number and IV."""
_FULL_ICV = 16
_SALT = 4
_TRAILERS = tuple(bytes(range(1, n + 1)) + bytes((n, UDP)) for n in range(4))
"""By length of the padding: padding 1, 2, 3… (RFC 4303 section 2.4), its length, next header."""
_pack_header = struct.Struct("!IIQ").pack


class Malformed(Exception):
    """The packet is not one that this association's sender makes."""


class Forged(Exception):
    """The ICV is wrong."""


class Cipher:
    """Encrypts and decrypts with the key of one association."""

    def __init__(self, association: Association) -> None:
        self._spi = association.spi
        self._salt = association.key[-_SALT:]
        self._gcm = AESGCM(association.key[:-_SALT])
        self._icv = association.icv_bits // 8

    def seal(self, sequence: int, datagram: bytes) -> bytes:
        header = _pack_header(self._spi, sequence, sequence)
        sealed = self._gcm.encrypt(
            self._salt + header[8:], datagram + _TRAILERS[-(len(datagram) + 2) % 4], header[:8]
        )
        # GCM's shorter tags are the first octets of the full one (NIST SP 800-38D section 5.2.1.2).
        return header + (sealed if self._icv == _FULL_ICV else sealed[: self._icv - _FULL_ICV])

    def open(self, packet: bytes) -> bytes:
        """The datagram. Raises `Malformed`, `Forged`."""
        length = len(packet) - HEADER - self._icv
        if length < 4 or length % 4:
            raise Malformed
        nonce, header = self._salt + packet[8:HEADER], packet[:8]
        text = (
            self._open_full(nonce, header, packet)
            if self._icv == _FULL_ICV
            else self._open_short(nonce, header, packet)
        )
        padding = text[-2]
        end = length - 2 - padding
        if text[-1] != UDP or end < 0 or text[end:-2] != bytes(range(1, padding + 1)):
            raise Malformed
        return text[:end]

    def _open_full(self, nonce: bytes, header: bytes, packet: bytes) -> bytes:
        try:
            return self._gcm.decrypt(nonce, packet[HEADER:], header)
        except InvalidTag:
            raise Forged from None

    def _open_short(self, nonce: bytes, header: bytes, packet: bytes) -> bytes:
        """AESGCM takes full tags only, and the general `Cipher` takes six times as long. But GCM's
        encryption is its own inverse (a key stream). Encrypting the result again gives the full
        tag, which must begin with the packet's tag."""
        sealed = packet[HEADER : -self._icv]
        text = self._gcm.encrypt(nonce, sealed, None)[:-_FULL_ICV]
        tag = self._gcm.encrypt(nonce, text, header)[-_FULL_ICV:]
        if not hmac.compare_digest(tag[: self._icv], packet[-self._icv :]):
            raise Forged
        return text
