"""An answer of the API that is a sequence of events of Weft's own: each is MessagePack, and has its
length before it."""

import struct

import msgspec

LENGTH = struct.Struct(">I")


def encoded(event: msgspec.Struct) -> bytes:
    data = msgspec.msgpack.encode(event)
    return LENGTH.pack(len(data)) + data
