"""How a manager gets the keys that seal secrets from another manager: one question over mutual TLS,
answered for managers only."""

import asyncio
from collections.abc import Sequence

import msgspec

from weft.errors import Unavailable, cause_of
from weft.model import codec
from weft.pki.sealing import SealingKey
from weft.session import tls
from weft.session.base import SealingKeyGrant
from weft.session.client import FAILURES, post
from weft.session.identity import CredentialSource

TIMEOUT = 5.0
"""Seconds until the next manager is asked."""


class SealingKeyClient:
    """`manager.vault.AskKeys`."""

    def __init__(
        self, credential_source: CredentialSource, is_revoked: tls.IsRevoked = tls.none_known
    ) -> None:
        self._contexts = tls.node_contexts(credential_source, is_revoked)

    async def __call__(self, manager: str) -> Sequence[SealingKey]:
        """Raises `Unavailable` if no manager answers at `host:port`, `Forbidden` if this node is
        not one."""
        try:
            async with asyncio.timeout(TIMEOUT):
                answer = await post(manager, "/v1/sealing-keys", self._contexts.current(), b"")
            grant: SealingKeyGrant = codec.decode(answer, SealingKeyGrant)
        except (*FAILURES, msgspec.DecodeError) as error:
            raise Unavailable(f"cannot ask manager {manager}: {cause_of(error)}") from error
        return grant.keys
