"""The C helper by ctypes: `Sealer` and `Opener` as in `weft/esp/gateway.py`, each with a loop that
runs entirely in C.

ctypes releases the interpreter's lock during a call, so both loops run at once. The C side keeps an
association's keys, numbers and window in its own memory, and wipes them when the association is
removed.
"""

import ctypes
import os
import struct
from collections.abc import Mapping
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from weft.errors import OperationFailed
from weft.esp.gateway import COUNTERS
from weft.esp.sequence import Block
from weft.linux.esp.build import LIBRARY
from weft.model.addresses import Port, Vni
from weft.model.encryption import Association, IcvBits

_LARGEST = 65535
_ROOM = 1 << 20
_pointer, _u32, _u64, _unsigned, _int = (
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_uint64,
    ctypes.c_uint,
    ctypes.c_int,
)
_bytes, _size = ctypes.c_char_p, ctypes.c_size_t
_SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "esp_sealer_new": (_pointer, _u32, ctypes.c_uint16, _unsigned, _int),
    "esp_sealer_free": (None, _pointer),
    "esp_sealer_add": (_int, _pointer, _u32, _u32, _unsigned, _bytes, _unsigned, _u64, _u64),
    "esp_sealer_remove": (None, _pointer, _u32, _u32, _unsigned),
    "esp_sealer_is_low": (_int, _pointer, _u32, _unsigned),
    "esp_sealer_extend": (None, _pointer, _u32, _unsigned, _u64, _u64),
    "esp_sealer_set_vnis": (_int, _pointer, _pointer, _pointer, _size),
    "esp_sealer_counter": (_u64, _pointer, _unsigned),
    "esp_sealer_run": (_int, _pointer, _int, _int, _int),
    "esp_sealer_frame": (ctypes.c_ssize_t, _pointer, _bytes, _size, _pointer, _size),
    "esp_opener_new": (_pointer, _u32, ctypes.c_uint16, _unsigned, _bytes),
    "esp_opener_free": (None, _pointer),
    "esp_opener_add": (_int, _pointer, _u32, _u32, _unsigned, _bytes, _unsigned),
    "esp_opener_remove": (None, _pointer, _u32, _u32, _unsigned),
    "esp_opener_set_vnis": (_int, _pointer, _pointer, _pointer, _size),
    "esp_opener_counter": (_u64, _pointer, _unsigned),
    "esp_opener_run": (_int, _pointer, _int, _int, _int),
    "esp_opener_packet": (ctypes.c_ssize_t, _pointer, _bytes, _size, _pointer),
}
"""Result type, then argument types."""


@cache
def load(path: Path = LIBRARY) -> ctypes.CDLL:
    """Raises `OSError` if the library was not built, or libcrypto is missing."""
    library = ctypes.CDLL(str(path))
    for name, (result, *arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def is_available() -> bool:
    try:
        load()
    except (OSError, AttributeError):
        return False
    return True


def _number(address: IPv4Address) -> int:
    """The address as the integer that it is in memory."""
    (value,) = struct.unpack("=I", address.packed)
    return int(value)


class _Half:
    """The common part of both; `_kind` is the prefix of their C functions."""

    def __init__(self, library: ctypes.CDLL, kind: str, handle: int | None) -> None:
        if not handle:
            raise OperationFailed(f"cannot make an ESP {kind}: out of memory")
        self._library, self._kind, self._handle = library, kind, handle

    def _call(self, name: str, *arguments: Any) -> Any:
        return getattr(self._library, f"esp_{self._kind}_{name}")(self._handle, *arguments)

    def set_vnis(self, vnis: Mapping[Vni, IcvBits]) -> None:
        array = ctypes.c_uint32 * len(vnis)
        numbers = sorted(vnis)
        if self._call(
            "set_vnis", array(*numbers), array(*(vnis[n] // 8 for n in numbers)), len(numbers)
        ):
            raise OperationFailed(f"cannot set {len(vnis)} encrypted VNIs: out of memory")

    def counters(self) -> dict[str, int]:
        return {name: self._call("counter", which) for which, name in enumerate(COUNTERS)}

    def run(self, tap: int, raw: int, wake: int) -> None:
        """Moves packets until `wake` is readable. Raises OSError if a descriptor is dead."""
        number = self._call("run", tap, raw, wake)
        if number:
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Frees the C side. No other method may be called afterwards."""
        self._call("free")
        self._handle = 0


class HelperSealer(_Half):
    def __init__(
        self,
        local: IPv4Address,
        port: Port,
        header: int,
        low: int,
        library: ctypes.CDLL | None = None,
    ) -> None:
        """`header`: octets of offload header before a frame, 24 or 0. `low`: an eventfd, written
        when numbers run short."""
        library = library or load()
        super().__init__(
            library, "sealer", library.esp_sealer_new(_number(local), port, header, low)
        )
        self._associations: dict[tuple[IPv4Address, IcvBits], Association] = {}
        self._header = header

    def add(self, association: Association, block: Block) -> None:
        peer, key = _number(association.destination), association.key
        if self._call(
            "add",
            peer,
            association.spi,
            association.icv_bits // 8,
            key,
            len(key),
            block.next,
            block.end,
        ):
            raise OperationFailed(f"cannot add {association}: libcrypto refused it")
        self._associations[association.destination, association.icv_bits] = association

    def remove(self, association: Association) -> None:
        self._call(
            "remove", _number(association.destination), association.spi, association.icv_bits // 8
        )
        del self._associations[association.destination, association.icv_bits]

    def extend(self, association: Association, block: Block) -> None:
        self._call("extend", _number(association.destination), association.icv_bits // 8, *block)

    def low(self) -> list[Association]:
        return [
            a
            for (peer, icv), a in self._associations.items()
            if self._call("is_low", _number(peer), icv // 8)
        ]

    def seal_frame(self, frame: bytes) -> list[bytes]:
        """The ESP packets of one frame of the device, for tests."""
        out = ctypes.create_string_buffer(_ROOM)
        written = self._call("frame", frame, len(frame), out, _ROOM)
        found, packets, at = ctypes.string_at(out, max(written, 0)), [], 0
        while at < len(found):
            length = int.from_bytes(found[at : at + 4], "big")
            packets.append(found[at + 4 : at + 4 + length])
            at += 4 + length
        return packets


class HelperOpener(_Half):
    def __init__(
        self,
        local: IPv4Address,
        port: Port,
        header: int,
        mac: bytes,
        library: ctypes.CDLL | None = None,
    ) -> None:
        library = library or load()
        super().__init__(
            library, "opener", library.esp_opener_new(_number(local), port, header, mac)
        )

    def add(self, association: Association) -> None:
        key = association.key
        if self._call(
            "add",
            _number(association.source),
            association.spi,
            association.icv_bits // 8,
            key,
            len(key),
        ):
            raise OperationFailed(f"cannot add {association}: libcrypto refused it")

    def remove(self, association: Association) -> None:
        self._call(
            "remove", _number(association.source), association.spi, association.icv_bits // 8
        )

    def open(self, packet: bytes) -> bytes | None:
        """The datagram in an ESP packet, or None, for tests."""
        out = ctypes.create_string_buffer(_LARGEST)
        length = self._call("packet", packet, len(packet), out)
        return ctypes.string_at(out, length) if length > 0 else None
