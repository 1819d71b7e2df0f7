"""The key with which users unlock managers: `SWMKEY-1-<32 bytes in base64>`, as in Docker Swarm."""

import base64
import binascii

from weft.errors import InvalidArgument
from weft.pki.sealing import SealingKey

PREFIX = "SWMKEY-1-"


def text(key: SealingKey) -> str:
    return PREFIX + base64.b64encode(key.secret).decode().rstrip("=")


def parse(shown: str) -> SealingKey:
    """A key of any length, which need not be the right one. Raises `InvalidArgument`."""
    if not shown.startswith(PREFIX):
        raise InvalidArgument("invalid key string")
    digits = shown.removeprefix(PREFIX)
    try:
        return SealingKey(base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True))
    except (binascii.Error, ValueError):
        raise InvalidArgument("invalid key string") from None
