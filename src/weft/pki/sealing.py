"""Seals secrets: AES-256-GCM under a key that every manager has on its own disk, and never in the
store.

The secret's id is authenticated with the data. So whoever can write the store, but has no key, can
neither read a secret, nor change it, nor give a service another one under a known id.
"""

import hashlib

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from weft.errors import OperationFailed
from weft.model.secret import Sealed

KEY_BYTES = 32
NONCE_BYTES = 12
"""A random nonce of 96 bits may be used 2**32 times with one key (NIST SP 800-38D section 8.3); a
swarm has some thousand secrets, each sealed once."""


class SealingKey(msgspec.Struct, frozen=True):
    secret: bytes
    """`KEY_BYTES` random bytes."""

    @property
    def id(self) -> str:
        """Names the key without telling anything about it."""
        return hashlib.sha256(b"weft sealing key\0" + self.secret).hexdigest()[:32]

    def __repr__(self) -> str:
        return f"SealingKey({self.id})"


def seal(key: SealingKey, id: str, data: bytes, nonce: bytes) -> Sealed:
    """`id`: the secret's. `nonce`: `NONCE_BYTES` random bytes, never used before."""
    return Sealed(key.id, nonce, AESGCM(key.secret).encrypt(nonce, data, _context(id)))


def opened(key: SealingKey, id: str, sealed: Sealed) -> bytes:
    """The data. Raises `OperationFailed` if it was not sealed with this key for this secret, or was
    changed since."""
    try:
        return AESGCM(key.secret).decrypt(sealed.nonce, sealed.text, _context(id))
    except (InvalidTag, ValueError):
        raise OperationFailed(
            f"cannot open secret {id}: it was changed in the store, or sealed for another one"
        ) from None


def _context(id: str) -> bytes:
    return f"weft secret {id}".encode()
