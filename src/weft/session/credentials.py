"""The node's own certificate: asked for anew in time, or when a manager says so, and taken over
only if it is what it should be.

Due at a random point between 50 and 80 % of its life, as in Docker Swarm; where the managers were
away then, it is asked for as soon as there is a session. The key is new each time and never leaves
the node. Whoever has a session has proved to be a manager under the root that is trusted now, and
so may name another one; it is believed once the node's own certificate is good under it.

A session shows the certificate that it began with. So it ends when there is a new one, and the next
one begins at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from weft.errors import InvalidArgument, WeftError
from weft.model.meta import SECOND, Nanoseconds
from weft.model.node import Role
from weft.pki.authority import make_key, private_pem, request
from weft.pki.certificate import fingerprint, has_key, holder, renewal_due, verify
from weft.session.identity import Credentials, CredentialSource
from weft.session.messages import CertificateRequest, IssuedCertificate, Renew, Trust

log = logging.getLogger(__name__)

EXPIRED = "Swarm certificates have expired. To replace them, leave the swarm and join again."
"""Docker Swarm's words: a certificate is asked for with one that is still good."""
EARLIEST, LATEST = 0.5, 0.8
"""Of a certificate's life; Docker Swarm's."""
RETRY = 30 * SECOND
"""After a request that was not answered with a certificate."""
LONGEST_WAIT = 600 * SECOND
"""Between two looks at the clock, which may be set meanwhile."""


class Renewal:
    def __init__(
        self,
        credential_source: CredentialSource,
        address: str,
        clock: Callable[[], Nanoseconds],
        entropy: Callable[[int], bytes],
        changed: Callable[[Credentials, Role], None],
    ) -> None:
        """`address`: that the node advertises. `changed` is told of each new certificate and its
        role."""
        self._credential_source = credential_source
        self._address = address
        self._clock = clock
        self._entropy = entropy
        self._changed = changed
        self._shown = credential_source.credentials
        self._key: ec.EllipticCurvePrivateKey | None = None
        self._offered = ""
        """A root (PEM) that a manager named, and under which the certificate that there is now is
        no good."""
        self._asked = False
        self._due = self._draw()
        self._news = asyncio.Event()

    @property
    def trusted(self) -> str:
        return fingerprint(self._credential_source.credentials.root)

    @property
    def expired(self) -> bool:
        """The node's certificate is over, by this host's clock."""
        return self._clock() >= holder(self._credential_source.credentials.certificate).expires

    def begin(self) -> None:
        """Before a connection is made: what it shows is what there is now."""
        self._shown = self._credential_source.credentials

    async def run(self, send: Callable[[CertificateRequest], Awaitable[None]]) -> None:
        """For as long as the session that `send` belongs to has the newest credentials."""
        last_request: Nanoseconds | None = None
        while self._credential_source.credentials is self._shown:
            now = self._clock()
            due = now if self._asked else self._due
            if last_request is not None:
                due = max(due, last_request + RETRY)
            if due <= now:
                self._key, last_request = make_key(self._entropy), now
                await send(CertificateRequest(request(self._key), self._address))
                continue
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(due - now, LONGEST_WAIT) / SECOND):
                    await self._news.wait()

    # --- what a manager says

    def hear(self, message: Renew | IssuedCertificate | Trust) -> None:
        match message:
            case Renew(reason):
                self.renew(reason)
            case IssuedCertificate(chain):
                self.take(chain)
            case Trust(root):
                self.trust(root)

    def renew(self, reason: str) -> None:
        log.info("certificate.renewal_asked cause=%s", reason)
        self._asked = True
        self._news.set()

    def take(self, chain: str) -> None:
        """A certificate, in answer to a request."""
        held, key = self._credential_source.credentials, self._key
        if key is None:
            log.warning("certificate.refused cause=nobody asked for one")
            return
        roots = [root for root in (self._offered, held.root) if root]
        try:
            credentials = accepted(held, chain, private_pem(key), roots, self._clock())
            self._credential_source.replace(credentials)
        except WeftError as error:
            log.warning("certificate.refused cause=%s", error)
            return
        self._key, self._asked, self._offered = None, False, ""
        self._tell()

    def trust(self, root: str) -> None:
        """Another root, in place of the one trusted until now."""
        held = self._credential_source.credentials
        try:
            verify(held.certificate, root, self._clock())
            self._credential_source.replace(msgspec.structs.replace(held, root=root))
        except WeftError as error:
            log.warning("root.postponed cause=%s", error)
            self._offered = root
            self.renew("the root that is to be trusted did not sign the certificate")
        else:
            self._tell()

    def _tell(self) -> None:
        self._due = self._draw()
        self._news.set()
        credentials = self._credential_source.credentials
        role = holder(credentials.certificate).role
        log.info("credentials.changed role=%s root=%s", role, self.trusted[:12])
        self._changed(credentials, role)

    def _draw(self) -> Nanoseconds:
        part = int.from_bytes(self._entropy(4), "big") / 2**32
        return renewal_due(
            self._credential_source.credentials.certificate, EARLIEST + (LATEST - EARLIEST) * part
        )


def accepted(
    held: Credentials, chain: str, key: str, roots: Sequence[str], now: Nanoseconds
) -> Credentials:
    """The new credentials, with the first of the roots (one at least) that vouches for the
    certificate. Raises `InvalidArgument` if none does, or if it is another node's or another key's.
    The role may be another one: that is for the managers to say."""
    before, after = holder(held.certificate), holder(chain)
    if (after.node, after.cluster) != (before.node, before.cluster):
        raise InvalidArgument(
            f"cannot accept certificate: it is made out to node {after.node} of cluster"
            f" {after.cluster}"
        )
    if not has_key(chain, key):
        raise InvalidArgument("cannot accept certificate: it is for another key")
    for root in roots[:-1]:
        with contextlib.suppress(InvalidArgument):
            verify(chain, root, now)
            return Credentials(chain, key, root)
    verify(chain, roots[-1], now)
    return Credentials(chain, key, roots[-1])
