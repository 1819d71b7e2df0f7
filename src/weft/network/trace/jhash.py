"""The kernel's Jenkins hash, as nftables' `jhash` computes it of an IPv4 address
(`include/linux/jhash.h`, `net/netfilter/nft_hash.c`)."""

from ipaddress import IPv4Address

_INITIAL = 0xDEADBEEF
_WORD = 0xFFFFFFFF


def jhash(address: IPv4Address, modulus: int, seed: int) -> int:
    """`jhash ip saddr mod MODULUS seed SEED`."""
    octets = address.packed
    b = c = (_INITIAL + len(octets) + seed) & _WORD
    a = (b + int.from_bytes(octets, "little")) & _WORD
    c = _mixed(c, b, 14)
    a = _mixed(a, c, 11)
    b = _mixed(b, a, 25)
    c = _mixed(c, b, 16)
    a = _mixed(a, c, 4)
    b = _mixed(b, a, 14)
    c = _mixed(c, b, 24)
    return c * modulus >> 32


def _mixed(one: int, other: int, bits: int) -> int:
    return ((one ^ other) - (other << bits | other >> 32 - bits)) & _WORD
