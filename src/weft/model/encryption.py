"""Keys of encrypted networks, and what is protected with them: the value that
`network/encryption.py` computes and an engine applies.

The managers make the keys and rotate them; a node has them only while a task of its own is on an
encrypted network. Of three keys the middle one is used for sending: it was known everywhere one
rotation before, and is still accepted one rotation after.
"""

from ipaddress import IPv4Address
from typing import Annotated, Literal

import msgspec

from weft.model.addresses import Port, Vni
from weft.model.meta import Nanoseconds

Spi = Annotated[int, msgspec.Meta(ge=256, le=2**32 - 1)]
"""Security parameters index; 0 to 255 are reserved (RFC 4303 section 2.1)."""

IcvBits = Literal[64, 128]
KEYS_KEPT = 3


class DataKey(msgspec.Struct, frozen=True):
    tag: int
    """Grows by one with each key; 32 bits."""
    secret: bytes
    """16 or 32 bytes. Never used as it is: each pair of hosts and direction has a key derived from
    it."""
    created_at: Nanoseconds = 0

    def __repr__(self) -> str:
        return f"DataKey(tag={self.tag})"


def sending_key(keys: tuple[DataKey, ...]) -> DataKey | None:
    """Of keys in order of their tags: the newest but one, which every node has had for a whole
    rotation; the only one if alone."""
    if not keys:
        return None
    return keys[-2] if len(keys) > 1 else keys[-1]


class Association(msgspec.Struct, frozen=True, kw_only=True):
    """One direction between two hosts under one key: an IPsec security association (RFC 4301)."""

    spi: Spi
    source: IPv4Address
    destination: IPv4Address
    key: bytes
    """16 or 32 bytes for AES, then 4 bytes of salt (RFC 4106 section 8.1)."""
    icv_bits: IcvBits = 64
    tag: int
    """Of the `DataKey` it was derived from."""

    def __repr__(self) -> str:
        return (
            f"Association(spi={self.spi:#x}, {self.source} -> {self.destination},"
            f" icv={self.icv_bits}, tag={self.tag})"
        )


class Protection(msgspec.Struct, frozen=True, kw_only=True):
    """All that one host protects. Traffic of `vnis` leaves only through `outbound` and is accepted
    only through `inbound`."""

    local: IPv4Address
    port: Port
    """Of VXLAN."""
    mtu: int = 1500
    """Of the underlay."""
    vnis: dict[Vni, IcvBits]
    outbound: tuple[Association, ...]
    """One for each peer and length of ICV: under the sending key."""
    inbound: tuple[Association, ...]
    """Under every key known."""
