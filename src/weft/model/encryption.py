"""Keys of encrypted networks, and the traffic that they protect: the value that
`network/encryption.py` computes and an ESP engine applies.

Managers make and rotate the keys. A node has them only while one of its tasks is on an encrypted
network. With three keys, the middle one is for sending: every node has known it since the previous
rotation, and still accepts it after the next one.
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
    """16 or 32 bytes. Not used directly: a separate key is derived from it for each pair of hosts
    and direction."""
    created_at: Nanoseconds = 0

    def __repr__(self) -> str:
        return f"DataKey(tag={self.tag})"


def sending_key(keys: tuple[DataKey, ...]) -> DataKey | None:
    """The newest key but one, which every node has had for a whole rotation, or the only one.
    `keys`: in order of their tags."""
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
    """Tag of the `DataKey` from which the key was derived."""

    def __repr__(self) -> str:
        return (
            f"Association(spi={self.spi:#x}, {self.source} -> {self.destination},"
            f" icv={self.icv_bits}, tag={self.tag})"
        )


class Protection(msgspec.Struct, frozen=True, kw_only=True):
    """All traffic that one host protects. Packets of `vnis` leave only through `outbound` and are
    accepted only through `inbound`."""

    local: IPv4Address
    port: Port
    """UDP port of VXLAN."""
    mtu: int = 1500
    """MTU of the underlay."""
    vnis: dict[Vni, IcvBits]
    outbound: tuple[Association, ...]
    """One for each peer and ICV length, under the sending key."""
    inbound: tuple[Association, ...]
    """Associations under every known key."""
