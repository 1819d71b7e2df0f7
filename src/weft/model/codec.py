"""Values to bytes and back, for the store, the disk and the wire: MessagePack, with addresses as text.

Decoding validates: a field of the wrong type or out of range raises `msgspec.ValidationError` with its path.
"""

from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import msgspec

_ADDRESSES = (IPv4Address, IPv4Interface, IPv4Network)


def encode_hook(value: Any) -> Any:
    if isinstance(value, _ADDRESSES):
        return str(value)
    raise NotImplementedError(f"no encoding for {type(value).__name__}")


def decode_hook(type_: type, value: Any) -> Any:
    if type_ in _ADDRESSES:
        return type_(value)
    raise NotImplementedError(f"no decoding for {type_.__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=encode_hook)


@cache
def _decoder(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(type_, dec_hook=decode_hook)


def encode(value: Any) -> bytes:
    return _encoder.encode(value)


def decode(data: bytes | memoryview, type_: Any) -> Any:
    """A `type_` (a struct, or a union of tagged ones). Raises `msgspec.DecodeError` if `data` is not one."""
    return _decoder(type_).decode(data)
