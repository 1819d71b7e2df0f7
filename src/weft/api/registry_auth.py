"""Credentials for a registry, as clients send them: in the header `X-Registry-Auth`, or as the body
of `POST /auth`. Neither is ever quoted in an answer."""

import base64
import binascii
from typing import ClassVar

import msgspec
from aiohttp import web

from weft.api.call import Call, answer
from weft.api.schema.common import Json, Wire, omit_empty
from weft.errors import InvalidArgument, Unsupported
from weft.model.registry import RegistryAuth

HEADER = "X-Registry-Auth"
MOST = 16 * 1024
"""Characters of all credentials together. The longest that are in use are the passwords of clouds,
with 3,000."""


class AuthWire(Wire, frozen=True, rename="lower"):
    """Docker's `AuthConfig`."""

    lacks: ClassVar[tuple[str, ...]] = ("registrytoken",)
    confidential: ClassVar[bool] = True

    username: str = ""
    password: str = ""
    auth: str = ""
    """User and password in base64, in place of the two."""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""

    def __repr__(self) -> str:
        return f"AuthWire({self.serveraddress})"


def given(request: web.Request) -> RegistryAuth | None:
    """None without the header; empty credentials for a header that has none. Raises
    `InvalidArgument` if it cannot be read, `Unsupported` for a registry token."""
    text = request.headers.get(HEADER, "")
    if not text:
        return None
    try:
        raw = msgspec.json.decode(
            base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) or b"{}",
            type=dict[str, str | None] | None,
        )
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise InvalidArgument(
            f"invalid {HEADER} header: it must be an AuthConfig as JSON in base64url"
        ) from None
    fields = {key.lower(): value for key, value in (raw or {}).items() if value}
    if "registrytoken" in fields:
        raise Unsupported(f"{HEADER}: registrytoken is not supported by Weft")
    known = {key: value for key, value in fields.items() if key in AuthWire.__struct_fields__}
    return auth_from(AuthWire(**known))


def auth_from(wire: AuthWire) -> RegistryAuth:
    """Raises `InvalidArgument`."""
    username, password = wire.username, wire.password
    if wire.auth and not username:
        try:
            pair = base64.b64decode(wire.auth).decode()
        except (binascii.Error, ValueError):
            raise InvalidArgument("auth must be USER:PASSWORD in base64") from None
        username, _, password = pair.partition(":")
    if len(username) + len(password) + len(wire.identitytoken) > MOST:
        raise InvalidArgument(f"credentials for a registry must not exceed {MOST} characters")
    return RegistryAuth(username=username, password=password, identity_token=wire.identitytoken)


async def log_in(call: Call) -> web.Response:
    """`docker login`. The client keeps the credentials; nothing of them stays here."""
    wire = await call.body(AuthWire)
    token = await call.node.images.log_in(wire.serveraddress, auth_from(wire))
    said: Json = {"Status": "Login Succeeded", **omit_empty({"IdentityToken": token})}
    return answer(said)
