"""Encodes values for the store, the disk and the wire: MessagePack, with addresses as text.

Decoding validates: a field of the wrong type or out of range raises `msgspec.ValidationError` with
the field's path.

An assignment consists mostly of addresses, and `ipaddress` takes 4 us to parse one and 3 us to
format one (an assignment of 6,000 endpoints: 60 ms). So addresses are formatted by hand here, and
recently parsed ones are cached.
"""

import zlib
from functools import cache, lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Any, ClassVar

import msgspec

from weft.model.addresses import AnyAddress

_ADDRESSES = (
    IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network,
)  # fmt: skip
_REMEMBERED = 1 << 16
"""Addresses in the cache; about 20 MB if full. An agent's assignment has a few thousand."""


class Compressed:
    """A value that is sent compressed. A subclass gives the `type` of `value`. Two are equal if
    their values are."""

    type: ClassVar[Any]
    LARGEST = 256 << 20
    """Most bytes of the decompressed value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Compressed) and self.value == other.value

    __hash__ = None  # type: ignore[assignment]

    @property
    def data(self) -> bytes:
        return compressed(self.value)

    @classmethod
    def read(cls, data: bytes) -> "Compressed":
        """Raises `ValueError` or `msgspec.DecodeError`."""
        inflater = zlib.decompressobj()
        try:
            plain = inflater.decompress(data, cls.LARGEST)
        except zlib.error as error:
            raise ValueError(f"not compressed: {error}") from error
        if not inflater.eof:
            raise ValueError(f"more than {cls.LARGEST} bytes, or not complete")
        return cls(decode(plain, cls.type))


def compressed(value: Any) -> bytes:
    return zlib.compress(encode(value), 1)


def encode_hook(value: Any) -> Any:
    match value:
        case Compressed():
            return value.data
        case IPv4Interface():
            return f"{_dotted(int(value))}/{value.network.prefixlen}"
        case IPv4Address():
            return _dotted(int(value))
        case IPv4Network() | IPv6Address() | IPv6Network():
            return str(value)
    raise NotImplementedError(f"no encoding for {type(value).__name__}")


def decode_hook(type_: type, value: Any) -> Any:
    if type_ in _ADDRESSES:
        if not isinstance(value, str):
            raise ValueError(f"expected the text of an {type_.__name__}")
        return _address(type_, value)
    if type_ is AnyAddress:  # type: ignore[comparison-overlap]  # a class, where it runs
        if not isinstance(value, str):
            raise ValueError("expected the text of an address")
        return _address(IPv6Address if ":" in value else IPv4Address, value)
    if issubclass(type_, Compressed):
        if not isinstance(value, bytes):
            raise ValueError("expected bytes")
        return type_.read(value)
    raise NotImplementedError(f"no decoding for {type_.__name__}")


def _dotted(number: int) -> str:
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


@lru_cache(_REMEMBERED)
def _address(type_: type, text: str) -> Any:
    return type_(text)


_encoder = msgspec.msgpack.Encoder(enc_hook=encode_hook)


@cache
def _decoder(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(type_, dec_hook=decode_hook)


def encode(value: Any) -> bytes:
    return _encoder.encode(value)


def decode(data: bytes | memoryview, type_: Any) -> Any:
    """A `type_` (a struct, or a union of tagged structs). Raises `msgspec.DecodeError` if `data`
    does not encode one."""
    return _decoder(type_).decode(data)
