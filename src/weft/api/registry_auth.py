"""The `X-Registry-Auth` header. Clients always send it, and an empty one has no effect. Weft would
ignore credentials and therefore refuses them."""

import base64
import binascii

import msgspec
from aiohttp import web

from weft.errors import InvalidArgument, Unsupported

HEADER = "X-Registry-Auth"


def refuse_credentials(request: web.Request) -> None:
    """Raises `Unsupported` if the header holds credentials, `InvalidArgument` if it cannot be
    read."""
    text = request.headers.get(HEADER, "")
    try:
        raw = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) or b"{}")
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise InvalidArgument(f"invalid {HEADER} header: {error}") from error
    if isinstance(raw, dict) and any(
        raw.get(key) for key in ("username", "password", "auth", "identitytoken", "registrytoken")
    ):
        raise Unsupported("credentials for a registry are not supported by Weft")
