"""Which task serves a client whose connections are to stay together: by the client's address alone.

The kernel makes a slot number of the address, the same on every host (`render/services.py`), and
each slot belongs to one backend. Each backend has a weight for each slot, which follows from its
address; the slot is that of the backend with the largest weight (rendezvous hashing, decision 32).
So hosts agree without talking to each other, whatever changes they have seen. A backend that goes
gives up only its own slots, and a new one takes its share from all others.

The weights of a ring continue in a ring of twice the size: half of the slots keep their backends
when the number of slots doubles.
"""

import hashlib
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address

FEWEST = 256
"""Slots of a ring with up to 16 backends: shares differ by a few percent for few backends."""
PER_BACKEND = 16
"""Slots for each backend of a larger ring: then shares differ by about a quarter."""


def ring_size(backends: int) -> int:
    """A power of two; 0 if there is no backend."""
    if not backends:
        return 0
    return max(FEWEST, PER_BACKEND << (backends - 1).bit_length())


def owners(addresses: Sequence[IPv4Address], size: int) -> list[int]:
    """For each slot the index of its backend. `addresses`: of the backends, all different."""
    weights = [_weights(address, size) for address in addresses]
    indexes = range(len(addresses))
    return [max(indexes, key=lambda i: (weights[i][slot], addresses[i])) for slot in range(size)]


def _weights(address: IPv4Address, size: int) -> tuple[int, ...]:
    """SHAKE128's output for a longer digest begins with that for a shorter one."""
    return struct.unpack(f"!{size}I", hashlib.shake_128(address.packed).digest(4 * size))
