"""Netlink attributes: bytes to values and back. Pure functions.

An attribute is a 16-bit length (header included, padding not), a 16-bit type, the payload, and
padding to four bytes (`include/uapi/linux/netlink.h`). The two highest bits of the type are flags:
nested, and network byte order.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

_HEADER = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def attribute(kind: int, payload: bytes) -> bytes:
    length = len(payload) + 4
    return _HEADER.pack(length, kind) + payload + _PADDING[length & 3]


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that contains attributes, without NLA_F_NESTED: rtnetlink takes both forms, old
    kernels only this one."""
    return attribute(kind, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u16_network(kind: int, value: int) -> bytes:
    """In network byte order, as ports are."""
    return attribute(kind, struct.pack("!H", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def ipv4(kind: int, value: IPv4Address) -> bytes:
    return attribute(kind, value.packed)


def address(kind: int, value: IPv4Address | IPv6Address) -> bytes:
    return attribute(kind, value.packed)


def to_address(payload: bytes) -> IPv4Address | IPv6Address:
    return IPv4Address(payload) if len(payload) == 4 else IPv6Address(payload)


def mac(kind: int, value: str) -> bytes:
    return attribute(kind, mac_bytes(value))


def mac_bytes(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def decode(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Payloads by type. Of several attributes of one type the last wins. Data after a malformed
    header is ignored, as by the kernel."""
    found = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _HEADER.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def decode_list(data: bytes) -> list[bytes]:
    """Payloads in order, regardless of type."""
    found = []
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length, _ = _HEADER.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            break
        found.append(data[offset + 4 : offset + length])
        offset += (length + 3) & ~3
    return found


def to_text(payload: bytes) -> str:
    return payload.split(b"\0", 1)[0].decode(errors="replace")


def to_u32(payload: bytes) -> int:
    value: int = struct.unpack("=I", payload)[0]
    return value


def to_u16_network(payload: bytes) -> int:
    value: int = struct.unpack("!H", payload)[0]
    return value


def to_mac(payload: bytes) -> str:
    return payload.hex(":")
