"""Join tokens: `SWMTKN-1-<digest of the root certificate>-<secret>`, as in Docker Swarm.

The digest lets a host that has only the token recognise the swarm's root certificate before it
sends the secret. The secret determines the role that the host may have; secrets are compared in
constant time.
"""

import hashlib
import hmac
import re

import msgspec

from weft.errors import InvalidArgument
from weft.model.cluster import JoinTokens
from weft.model.ids import base36
from weft.model.node import Role

SECRET_BYTES = 16
_PATTERN = re.compile(r"SWMTKN-1-(?P<digest>[0-9a-z]{50})-(?P<secret>[0-9a-z]{25})")


class JoinToken(msgspec.Struct, frozen=True):
    digest: str
    secret: str

    def __repr__(self) -> str:
        return "JoinToken(…)"

    def recognises(self, root_certificate: str) -> bool:
        """Whether this PEM certificate is the root for which the token was made."""
        return hmac.compare_digest(self.digest, root_digest(root_certificate))


def root_digest(root_certificate: str) -> str:
    """SHA-256 of the PEM text in base 36, 50 digits."""
    return base36(int.from_bytes(hashlib.sha256(root_certificate.encode()).digest(), "big"), 50)


def make_token(root_certificate: str, secret: bytes) -> str:
    """`secret`: `SECRET_BYTES` random bytes."""
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a join token needs {SECRET_BYTES} random bytes, got {len(secret)}")
    return f"SWMTKN-1-{root_digest(root_certificate)}-{base36(int.from_bytes(secret, 'big'), 25)}"


def parse_token(text: str) -> JoinToken:
    """Raises `InvalidArgument`; the message does not repeat the token."""
    match = _PATTERN.fullmatch(text)
    if not match:
        raise InvalidArgument("invalid join token")
    return JoinToken(match["digest"], match["secret"])


def role_of(token: str, tokens: JoinTokens) -> Role | None:
    """The role that the token grants; None if it is none of these tokens."""
    is_worker = hmac.compare_digest(token.encode(), tokens.worker.encode())
    is_manager = hmac.compare_digest(token.encode(), tokens.manager.encode())
    if is_manager:
        return "manager"
    return "worker" if is_worker else None
