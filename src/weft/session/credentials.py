"""Renews the node's own certificate: requests a new one in time, or when a manager says so, and
takes it over only after checking it.

The renewal is due at a random point between 50 and 80 % of the certificate's life, as in Docker
Swarm. If no manager could be reached then, the node asks as soon as there is a session. The key is
new each time and never leaves the node. A manager with a session has proved itself under the root
that is trusted now, so it may name another root. The node trusts the new root once its own
certificate is valid under it.

A session shows the certificate that it began with. So the session ends when there is a new
certificate, and the next session begins at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from weft.errors import InvalidArgument, WeftError
from weft.model.meta import SECOND, Nanoseconds, bounded
from weft.model.node import Role
from weft.pki.authority import make_key, private_pem, request
from weft.pki.certificate import fingerprint, has_key, holder, renewal_due, verify
from weft.session.identity import Credentials, CredentialSource
from weft.session.messages import CertificateRequest, IssuedCertificate, Renew, Trust

log = logging.getLogger(__name__)

EXPIRED = "Swarm certificates have expired. To replace them, leave the swarm and join again."
"""Docker Swarm's words. A node needs a valid certificate to ask for the next one."""
EARLIEST, LATEST = 0.5, 0.8
"""Parts of a certificate's life, as in Docker Swarm."""
RETRY = 30 * SECOND
"""The wait after a request that was not answered with a certificate."""
LONGEST_WAIT = 600 * SECOND
"""The longest time between two looks at the clock, which may be set meanwhile."""


class Renewal:
    def __init__(
        self,
        credential_source: CredentialSource,
        address: str,
        clock: Callable[[], Nanoseconds],
        entropy: Callable[[int], bytes],
        changed: Callable[[Credentials, Role], None],
    ) -> None:
        """`address`: the address that the node advertises. `changed` is called with each new
        certificate and its role."""
        self._credential_source = credential_source
        self._address = address
        self._clock = clock
        self._entropy = entropy
        self._changed = changed
        self._shown = credential_source.credentials
        self._key: ec.EllipticCurvePrivateKey | None = None
        self._offered = ""
        """A root (PEM) that a manager named, but under which the present certificate is not
        valid."""
        self._asked = False
        self._due = self._draw()
        self._news = asyncio.Event()

    @property
    def trusted(self) -> str:
        return fingerprint(self._credential_source.credentials.root)

    @property
    def expired(self) -> bool:
        """Whether the node's certificate has expired, by this host's clock."""
        return self._clock() >= self.expires

    def is_late(self, fraction: float) -> bool:
        """Whether this part of the certificate's life is over, by this host's clock."""
        certificate = self._credential_source.credentials.certificate
        return self._clock() >= renewal_due(certificate, fraction)

    @property
    def expires(self) -> Nanoseconds:
        return holder(self._credential_source.credentials.certificate).expires

    def begin(self) -> None:
        """Called before a connection is made, because the connection shows the present
        credentials."""
        self._shown = self._credential_source.credentials

    async def run(self, send: Callable[[CertificateRequest], Awaitable[None]]) -> None:
        """Runs as long as the session that `send` belongs to has the newest credentials."""
        last_request: Nanoseconds | None = None
        while self._credential_source.credentials is self._shown:
            now = self._clock()
            due = now if self._asked else self._due
            if last_request is not None:
                due = max(due, bounded(last_request + RETRY, RETRY, now))
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
        """Takes a certificate that answers a request."""
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
        """Trusts another root in place of the present one."""
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
    """The new credentials, with the first of the roots (at least one) under which the certificate
    is valid. Raises `InvalidArgument` if there is no such root, or if the certificate is for
    another node or another key. The role may differ: the managers decide about the role."""
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
