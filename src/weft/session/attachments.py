"""A node's request for a place of one of its own containers on a network of the swarm."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from weft.errors import Conflict, NotFound, Unavailable, WeftError
from weft.model import codec
from weft.model.attached import AttachmentGrant
from weft.session import tls
from weft.session.base import AttachmentRequest
from weft.session.client import ERRORS, FAILURES, decoded, post, reason_of
from weft.session.identity import CredentialSource

PATH = "/v1/attachments"
PATIENCE = 20.0
"""Seconds that all managers together may take, as in Docker Swarm."""
EACH = 8.0
"""Seconds that one of them may take: one that is stopped accepts connections and says nothing. The
next one is asked the same, which changes nothing if the first one has granted it."""
REFUSALS: Mapping[int, type[WeftError]] = {**ERRORS, 404: NotFound, 409: Conflict}
UNKNOWN_PATH = "404: Not Found"
"""How a manager answers that does not know the request."""


class AttachmentClient:
    """Asks the present managers, one after the other, until one can answer."""

    def __init__(
        self,
        credential_source: CredentialSource,
        managers: Callable[[], Sequence[str]],
        obstacle: Callable[[], str] = str,
        is_revoked: tls.IsRevoked = tls.none_known,
    ) -> None:
        """`obstacle`: why this node can ask nobody now; empty if it can."""
        self._obstacle = obstacle
        self._contexts = tls.node_contexts(credential_source, is_revoked)
        self._managers = managers

    async def __call__(self, request: AttachmentRequest) -> AttachmentGrant:
        """Raises the errors of `session.base.Manager.attach`, and `Unavailable` if no manager
        answers within `PATIENCE`."""
        if obstacle := self._obstacle():
            raise Unavailable(obstacle)
        causes: list[str] = []
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._ask(codec.encode(request), causes)
        except TimeoutError:
            causes.append(f"no answer within {PATIENCE:g} s")
        raise Unavailable(f"cannot reach a manager: {'; '.join(causes)}")

    async def _ask(self, body: bytes, causes: list[str]) -> AttachmentGrant:
        for address in self._managers():
            try:
                async with asyncio.timeout(EACH):
                    answer = await post(address, PATH, self._contexts.current(), body, REFUSALS)
            except NotFound as error:
                if str(error) != UNKNOWN_PATH:
                    raise
                causes.append(f"{address}: its daemon is too old")
            except TimeoutError:
                causes.append(f"{address}: no answer within {EACH:g} s")
            except (*FAILURES, Unavailable) as error:
                causes.append(f"{address}: {reason_of(error)}")
            else:
                grant: AttachmentGrant = decoded(address, answer, AttachmentGrant)
                return grant
        raise Unavailable(f"cannot reach a manager: {'; '.join(causes) or 'none known'}")
